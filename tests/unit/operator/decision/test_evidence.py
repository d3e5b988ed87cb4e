"""A node that breaks workers of several jobs is avoided by all of them, as long as that was lately."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import builders
import world
from kubedet_operator.decision.evidence import Evidence, judge_node, read_evidence
from kubedet_operator.decision.plan import ApplyChild, Plan

HANG = {
    "time": "2026-01-01T00:50:00Z",
    "class": "Application",
    "reason": "Hang",
    "node": "gpu-7",
    "exitCode": 152,
}
RULE = {"name": "ecc", "onMessagePatterns": ["Xid"], "action": "ExcludeNodeAndRestart"}


def _job(*history: Any, **spec: Any) -> dict[str, Any]:
    return {**builders.make_manifest(**spec), "status": {"failureHistory": list(history)}}


def _ago(minutes: float, reason: str = "Hang") -> Evidence:
    return Evidence(world.NOW - timedelta(minutes=minutes), reason)


@pytest.mark.parametrize("code", [134, 139, 152, 153])
def test_crashes_hangs_and_broken_hardware_speak_against_their_node(code: int) -> None:
    (found,) = read_evidence(_job({**HANG, "exitCode": code})).items()
    assert found == ("gpu-7", Evidence(datetime(2026, 1, 1, 0, 50, tzinfo=UTC), "Hang"))


@pytest.mark.parametrize(
    "other",
    [
        {"exitCode": 137, "reason": "OOMKilled"},
        {"exitCode": 65},
        {"exitCode": 143},
        {"exitCode": 151},
        {"exitCode": None, "reason": "Evicted"},
        {"node": None},
        {"time": "soon"},
        {"time": None},
        {"node": ["gpu-7"]},
    ],
)
def test_nothing_else_does(other: dict[str, Any]) -> None:
    assert read_evidence(_job({**HANG, **other})) == {}


def test_what_a_rule_of_the_job_calls_broken_hardware_speaks_against_its_node() -> None:
    failed = {**HANG, "exitCode": 1, "rule": "ecc"}
    assert read_evidence(_job(failed, failurePolicy={"rules": [RULE]})).keys() == {"gpu-7"}
    assert read_evidence(_job(failed, failurePolicy={"rules": [{**RULE, "action": "Restart"}]})) == {}


def test_the_newest_failure_of_a_job_on_each_node_counts() -> None:
    history = (
        {**HANG, "reason": "Newest"},
        {**HANG, "time": "2026-01-01T00:30:00Z"},
        {**HANG, "node": "gpu-8", "time": "2026-01-01T00:20:00Z"},
    )
    found = read_evidence(_job(*history))
    assert {node: evidence.reason for node, evidence in found.items()} == {"gpu-7": "Newest", "gpu-8": "Hang"}


@pytest.mark.parametrize("status", [{}, {"failureHistory": None}, {"failureHistory": "x"}, None])
def test_a_status_of_others_is_no_evidence(status: Any) -> None:
    assert read_evidence({**builders.make_manifest(), "status": status}) == {}
    assert read_evidence(_job(None, 1, [], {})) == {}


def test_three_jobs_within_an_hour_make_a_node_suspect_until_the_third_is_older() -> None:
    against = [_ago(5, "Crashed"), _ago(20), _ago(50), _ago(70)]
    found = judge_node("gpu-7", against, now=world.NOW)
    assert found is not None
    assert (found.name, found.mode, found.failures, found.reason) == ("gpu-7", "Preferred", 3, "Crashed")
    assert found.until == "2026-01-01T01:10:00Z"
    assert found.message == "it has broken workers of 3 jobs within 3600 s"
    assert judge_node("gpu-7", against, now=world.NOW + timedelta(minutes=10)) is None


def test_two_jobs_do_not() -> None:
    assert judge_node("gpu-7", [_ago(1), _ago(2), _ago(60)], now=world.NOW) is None


def _decide(*minutes: float, status: dict[str, Any] | None = None, **spec: Any) -> Plan:
    """A decision about a job without pods, with a node that broke other jobs so long ago."""
    found = judge_node("gpu-7", [_ago(item) for item in minutes], now=world.NOW)
    suspects = (found,) if found else ()
    return world.decide_on(suspects=suspects, status=status, **spec)


def _affinity(plan: Plan) -> dict[str, Any]:
    pods = [action.manifest for action in plan.actions if isinstance(action, ApplyChild)]
    (pod,) = [manifest for manifest in pods if manifest["kind"] == "Pod"]
    return dict(pod["spec"].get("affinity", {}).get("nodeAffinity", {}))


def test_new_pods_of_any_job_prefer_other_nodes_and_are_never_forbidden_one() -> None:
    plan = _decide(1, 2, 3)
    term = {"key": "metadata.name", "operator": "NotIn", "values": ["gpu-7"]}
    preferred = [{"weight": 100, "preference": {"matchFields": [term]}}]
    assert _affinity(plan) == {"preferredDuringSchedulingIgnoredDuringExecution": preferred}
    (listed,) = plan.status["excludedNodes"]
    assert (listed["name"], listed["mode"], listed["until"]) == ("gpu-7", "Preferred", "2026-01-01T01:57:00Z")


def test_a_job_that_creates_no_pod_is_left_as_it_is() -> None:
    found = judge_node("gpu-7", [_ago(1), _ago(2), _ago(3)], now=world.NOW)
    assert found is not None
    with_suspect = world.decide_on(world.pod(), suspects=(found,))
    assert with_suspect == world.decide_on(world.pod())
    assert with_suspect.status["excludedNodes"] == []


def test_what_the_job_itself_has_excluded_stays_as_it_is() -> None:
    own = {"name": "gpu-7", "mode": "Required", "reason": "GpuHardware", "until": "2026-01-01T01:30:00Z"}
    plan = _decide(1, 2, 3, status={"excludedNodes": [own]})
    assert [(node["mode"], node["reason"]) for node in plan.status["excludedNodes"]] == [
        ("Required", "GpuHardware")
    ]
    assert _affinity(plan).keys() == {"requiredDuringSchedulingIgnoredDuringExecution"}


def test_a_job_that_excludes_no_node_takes_no_part() -> None:
    plan = _decide(1, 2, 3, failurePolicy={"nodeExclusion": {"ttlSeconds": 0}})
    assert plan.status["excludedNodes"] == []
    assert _affinity(plan) == {}


def test_the_node_is_dropped_from_the_status_when_its_time_is_over() -> None:
    known = _decide(1, 2, 3).status
    then = world.NOW + timedelta(minutes=57)
    assert world.decide_on(world.pod(), status=known, now=then).status["excludedNodes"] == []
    before = world.decide_on(world.pod(), status=known, now=then - timedelta(seconds=9))
    assert before.next_check_seconds == 9


def test_a_stopped_rank_speaks_against_the_node_of_its_worker() -> None:
    message = world.failure("Hang", "no step for 60 s; its process is stopped, as by SIGSTOP", 152)
    then = world.NOW - timedelta(seconds=9)
    ended = world.pod(1, exit_code=152, node="gpu-7", message=message, ended=then)
    status = world.decide_on(world.pod(0), ended, worker={"replicas": 2}).status
    assert status["failureHistory"][0]["node"] == "gpu-7"
    assert read_evidence({"status": status})["gpu-7"].time == then
