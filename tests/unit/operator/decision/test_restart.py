"""Which failures are restarted, how often, after what delay, and whom they are charged to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import world
from kubedet_operator.decision.decide import decide
from kubedet_operator.decision.pods import PodFacts
from kubedet_trainer import contract
from kubedet_trainer.contract import ExitCode
from simulation import Simulation


def test_a_missing_pod_is_made_again_though_nothing_was_charged() -> None:
    plan = world.decide_on(world.pod(0), world.rendezvous(), worker={"replicas": 2, "gpus": 0})
    assert world.created(plan) == {"demo-workers", "demo-worker-1"}
    assert plan.status["restarts"]["total"] == 0


@pytest.mark.parametrize("code", [1, 2, 65, 66, 77, 93, 95, 96])
def test_a_permanent_code_fails_at_once_with_the_root_cause(code: int) -> None:
    message = world.failure("InvalidInput", "recipe: got 'rpnn', must be a recipe. Did you mean 'rpn'?", code)
    plan = world.decide_on(world.pod(exit_code=code, message=message))
    status, reason, text = world.condition(plan, "Failed")
    assert (status, reason) == ("True", "PermanentFailure")
    assert "Did you mean 'rpn'?" in text
    assert f"exit code {code}, rank 3" in text
    assert plan.status["lastFailure"]["class"] == "Permanent"
    assert plan.status["phase"] == "Failed"
    assert plan.actions == ()


def test_a_failed_pod_is_charged_and_deleted_but_its_name_is_not_taken_yet() -> None:
    plan = world.decide_on(world.pod(exit_code=137))
    assert plan.status["restarts"] == {
        "total": 1,
        "application": 1,
        "infrastructure": 0,
        "process": 0,
        "withoutProgress": 1,
        "applicationWithoutProgress": 1,
        "checkpointIteration": 0,
    }
    assert plan.status["chargedPods"] == ["uid-0"]
    assert plan.status["phase"] == "Restarting"
    assert world.deleted(plan) == {"uid-0"}
    assert world.created(plan) == set()


def test_a_charged_pod_is_deleted_again_but_never_charged_twice() -> None:
    seen = world.pod(exit_code=137)
    first = world.decide_on(seen)
    again = world.decide_on(seen, status=first.status)
    assert again.status["restarts"] == first.status["restarts"]
    assert world.deleted(again) == {"uid-0"}
    gone = world.decide_on(status=again.status)
    assert gone.status["chargedPods"] == []
    assert world.created(gone) == {"demo-worker-0"}


def test_the_only_worker_gets_a_new_attempt_and_a_survivor_keeps_the_old_one() -> None:
    assert world.decide_on(world.pod(exit_code=137)).status["attempt"] == 1
    pods = (world.pod(0), world.pod(1, exit_code=137), world.rendezvous())
    plan = world.decide_on(*pods, worker={"replicas": 2, "gpus": 0})
    assert plan.status["attempt"] == 0
    assert world.deleted(plan) == {"uid-1"}


def test_the_endings_of_peers_are_waited_for_and_not_charged() -> None:
    worker = {"replicas": 2, "gpus": 0}
    ended = world.NOW - timedelta(seconds=1)
    peer = world.pod(0, exit_code=ExitCode.PEER_FAILED, ended=ended)
    plan = world.decide_on(peer, world.pod(1), world.rendezvous(), worker=worker)
    assert plan.actions == ()
    assert plan.next_check_seconds == 1
    cause = world.pod(1, exit_code=139, ended=world.NOW)
    later = world.decide_on(
        peer, cause, world.rendezvous(), worker=worker, now=world.NOW + timedelta(seconds=2)
    )
    assert later.status["lastFailure"]["pod"] == "demo-worker-1"
    assert later.status["restarts"]["application"] == 1
    assert world.deleted(later) == {"uid-0", "uid-1"}
    assert later.status["attempt"] == 1


def test_a_peer_failure_whose_cause_is_gone_counts_as_a_disruption() -> None:
    plan = world.decide_on(world.pod(exit_code=ExitCode.PEER_FAILED))
    assert plan.status["restarts"]["infrastructure"] == 1


def test_a_permanent_failure_explains_the_failures_around_it() -> None:
    first = world.pod(0, exit_code=139, ended=world.NOW - timedelta(seconds=9))
    second = world.pod(
        1,
        exit_code=96,
        ended=world.NOW - timedelta(seconds=8),
        message=world.failure("LossNotFinite", "nan", 96),
    )
    plan = world.decide_on(first, second, world.rendezvous(), worker={"replicas": 2, "gpus": 0})
    assert world.condition(plan, "Failed")[1] == "PermanentFailure"
    assert plan.status["lastFailure"]["pod"] == "demo-worker-1"
    assert world.deleted(plan) == {"uid-rendezvous"}


def test_the_backoff_limit_counts_failures_without_a_newer_checkpoint() -> None:
    status: Mapping[str, Any] = {}
    for number in range(3):
        plan = world.decide_on(world.pod(exit_code=139, uid=f"uid-{number}"), status=status, backoffLimit=2)
        status = plan.status
    assert world.condition(plan, "Failed")[:2] == ("True", "BackoffLimitExceeded")
    assert "spec.backoffLimit is 2" in world.condition(plan, "Failed")[2]


def test_a_newer_checkpoint_between_failures_resets_the_count() -> None:
    status: dict[str, Any] = {}
    for number in range(6):
        checkpoint = {
            "latest": f"s3://c/step-{number}",
            "iteration": 10 * (number + 1),
            "time": "2026-01-01T00:00:00Z",
            "sizeBytes": 1,
            "saveSeconds": 0.1,
            "stallSeconds": 0.1,
        }
        found = world.look(
            world.pod(exit_code=139, uid=f"uid-{number}"),
            status={**status, "checkpoint": checkpoint},
            backoffLimit=1,
        )
        status = dict(decide(found, world.SETTINGS).status)
    assert status["phase"] == "Restarting"
    assert status["restarts"]["application"] == 6
    assert status["restarts"]["withoutProgress"] == 1


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"phase": "Failed", "exit_code": 143}, "TerminatedSaved"),
        ({"phase": "Failed", "exit_code": 154}, "StorageUnreachable"),
        ({"phase": "Running", "deletion_timestamp": "2026-01-01T00:00:00Z"}, "PodDeleted"),
        (
            {
                "phase": "Running",
                "deletion_timestamp": "2026-01-01T00:00:00Z",
                "conditions": [
                    {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
                ],
            },
            "PreemptionByScheduler",
        ),
    ],
)
def test_disruptions_are_not_counted_against_the_backoff_limit(fields: dict[str, Any], reason: str) -> None:
    plan = world.decide_on(world.pod(**fields), backoffLimit=0)
    assert plan.status["restarts"]["infrastructure"] == 1
    assert plan.status["restarts"]["application"] == 0
    assert plan.status["lastFailure"]["reason"] == reason
    assert plan.status["phase"] == "Restarting"


@pytest.mark.parametrize("reason", ["Evicted", "UnexpectedAdmissionError", "OutOfcpu", "NodeLost"])
def test_a_pod_that_its_node_refused_or_evicted_is_a_disruption(reason: str) -> None:
    refused = replace(world.pod(phase="Failed"), reason=reason, message="the node was low on memory")
    plan = world.decide_on(refused)
    assert plan.status["lastFailure"]["reason"] == reason
    assert plan.status["lastFailure"]["class"] == "Infrastructure"
    assert "low on memory" in plan.status["lastFailure"]["message"]


def test_disruptions_have_a_bound_of_their_own() -> None:
    status = {"restarts": {"infrastructure": 100}}
    plan = world.decide_on(world.pod(exit_code=143), status=status)
    assert world.condition(plan, "Failed")[1] == "TooManyDisruptions"


def test_out_of_memory_says_so_and_what_to_do() -> None:
    plan = world.decide_on(world.pod(exit_code=137, reason="OOMKilled"))
    assert plan.status["lastFailure"]["reason"] == "OOMKilled"
    assert "resources.limits.memory" in plan.status["lastFailure"]["message"]


def test_restarts_wait_longer_and_longer() -> None:
    status: Mapping[str, Any] = {}
    waits = []
    now = world.NOW
    for number in range(9):
        failed = world.pod(exit_code=143, uid=f"uid-{number}", ended=now)
        status = world.decide_on(failed, status=status, now=now).status
        seconds = 0.0
        while not world.created(plan := world.decide_on(status=status, now=now)):
            assert plan.next_check_seconds is not None
            seconds += plan.next_check_seconds
            now += timedelta(seconds=plan.next_check_seconds)
        waits.append(seconds)
    assert waits == [0, 10, 20, 40, 80, 160, 320, 360, 360]


def test_a_long_calm_starts_without_a_delay_again() -> None:
    first = world.decide_on(world.pod(exit_code=143, ended=world.NOW))
    later = world.NOW + timedelta(hours=1)
    second = world.decide_on(world.pod(exit_code=143, ended=later, uid="b"), status=first.status, now=later)
    assert world.created(world.decide_on(status=second.status, now=later))


def test_a_restart_ends_when_the_training_goes_on() -> None:
    charged = world.decide_on(world.pod(exit_code=143, ended=world.NOW)).status
    fresh = world.pod(uid="fresh")

    def at(time: str) -> contract.ProgressRecord:
        return contract.ProgressRecord(
            progress=contract.Progress(stage=contract.Stage.TRAINING, lastProgressTime=time)
        )

    old = world.decide_on(fresh, status=charged, progress=at("2026-01-01T00:59:00Z"))
    assert old.status["phase"] == "Restarting"
    new = world.decide_on(fresh, status=charged, progress=at("2026-01-01T01:00:05Z"))
    assert new.status["phase"] == "Running"
    assert world.condition(new, "Restarting")[:2] == ("False", "Recovered")


ENDINGS = st.sampled_from(
    ["running", "pending", "gone", 0, 66, 137, 139, 143, 150, 151, "evicted", "deleted"]
)


@settings(max_examples=30)
@given(st.lists(st.tuples(ENDINGS, ENDINGS), min_size=1, max_size=12))
def test_whatever_happens_restarts_only_grow_and_every_failure_is_charged_at_most_once(
    history: list[tuple[Any, Any]],
) -> None:
    status: Mapping[str, Any] = {}
    uids: dict[int, int] = {0: 0, 1: 0}
    now = world.NOW
    failures = 0
    for step in history:
        now += timedelta(minutes=30)
        pods = [found for index, ending in enumerate(step) if (found := _state(index, ending, uids, now))]
        failures += any(ending not in ("running", "pending", "gone", 0) for ending in step)
        before = (status.get("restarts") or {}).get("total", 0)
        for _ in range(3):  # the same sight again must change nothing that counts
            plan = world.decide_on(
                *pods, world.rendezvous(), status=status, worker={"replicas": 2, "gpus": 0}, now=now
            )
            status = plan.status
        json.dumps(status)
        assert before <= status["restarts"]["total"] <= failures
        names_created = world.created(plan)
        assert not names_created & {found.name for found in pods}
        for index in uids:
            uids[index] += 1


def _state(index: int, ending: Any, uids: dict[int, int], now: datetime) -> PodFacts | None:
    uid = f"uid-{index}-{uids[index]}"
    ended = now - timedelta(seconds=10)
    match ending:
        case "gone":
            return None
        case "running":
            return world.pod(index, uid=uid)
        case "pending":
            return world.pod(index, uid=uid, phase="Pending", waiting="ContainerCreating")
        case "evicted":
            return replace(world.pod(index, uid=uid, phase="Failed"), reason="Evicted")
        case "deleted":
            return world.pod(index, uid=uid, deletion_timestamp="2026-01-01T00:00:00Z")
        case _:
            return world.pod(index, uid=uid, exit_code=ending, ended=ended)


def test_a_new_worker_is_told_why_the_one_before_failed_and_after_a_suspension_nothing() -> None:
    life = Simulation({})

    def cause() -> str | None:
        (container,) = life.pods["demo-worker-0"]["spec"]["containers"]
        variables = {variable["name"]: variable.get("value") for variable in container["env"]}
        return variables.get("KUBEDET_RESTART_CAUSE")

    life.settle()
    assert cause() is None
    life.place(0, "node-0")
    life.run([0])
    life.settle()
    life.end(0, 137)
    life.settle()
    life.wait(15)
    life.settle()
    told = cause()
    assert told is not None
    assert "137" in told
    life.place(0, "node-0")
    life.run([0])
    life.settle()
    life.change(suspend=True)
    life.settle()
    life.change(suspend=False)
    life.settle()
    assert cause() is None
