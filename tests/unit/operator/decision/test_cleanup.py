"""What is left of a finished job."""

from __future__ import annotations

from typing import Any

import pytest

import builders
import world
from kubedet_operator.decision.pods import PodFacts, parse_pod

TWO = {"replicas": 2, "gpus": 0}


@pytest.mark.parametrize(
    ("policy", "deleted"),
    [("Running", {"uid-rendezvous"}), ("All", {"uid-0", "uid-rendezvous"}), ("None", set())],
)
def test_after_a_failure_the_pod_that_explains_it_stays(policy: str, deleted: set[str]) -> None:
    pods = (world.pod(0, exit_code=151), world.pod(1, exit_code=65), world.rendezvous())
    plan = world.decide_on(*pods, worker=TWO, cleanPodPolicy=policy)
    assert world.condition(plan, "Failed")[0] == "True"
    assert world.deleted(plan) == deleted


@pytest.mark.parametrize(("policy", "deleted"), [("Running", set()), ("All", {"uid-0"}), ("None", set())])
def test_after_success_pods_go_only_if_all_shall(policy: str, deleted: set[str]) -> None:
    plan = world.decide_on(world.pod(exit_code=0, message=world.RESULTS), cleanPodPolicy=policy)
    assert world.condition(plan, "Complete")[0] == "True"
    assert world.deleted(plan) == deleted


def _linger(code: int, *, restarts: str = "Never", sidecar: str = "running") -> PodFacts:
    """A worker that has ended, and that a sidecar keeps running, which a webhook has put into it."""
    pod = builders.make_pod(exit_code=code, message=world.RESULTS if code == 0 else "", uid="uid-0")
    pod["spec"] |= {"restartPolicy": restarts}
    running = {"name": "istio-proxy", "ready": True, "state": {sidecar: {}}}
    pod["status"]["containerStatuses"].insert(0, running)
    found = parse_pod(pod)
    assert found is not None
    return found


@pytest.mark.parametrize(("code", "kind"), [(0, "Complete"), (65, "Failed")])
@pytest.mark.parametrize(("policy", "deleted"), [("Running", {"uid-0"}), ("All", {"uid-0"}), ("None", set())])
def test_a_sidecar_holds_neither_the_end_of_the_job_nor_its_gpus(
    code: int, kind: str, policy: str, deleted: set[str]
) -> None:
    plan = world.decide_on(_linger(code), cleanPodPolicy=policy)
    assert world.condition(plan, kind)[0] == "True"
    assert world.deleted(plan) == deleted


def test_a_worker_that_only_its_sidecar_outlives_is_replaced() -> None:
    plan = world.decide_on(_linger(137))
    assert world.condition(plan, "Restarting")[0] == "True"
    assert world.deleted(plan) == {"uid-0"}


def test_a_container_that_is_started_again_has_not_ended() -> None:
    assert _linger(1, restarts="Always").phase == "Running"


def test_a_pod_whose_containers_have_all_ended_keeps_its_log() -> None:
    """A kubelet still says that it runs while it takes the pod down."""
    ending = _linger(65, sidecar="terminated")
    assert ending.phase == "Running"
    assert not ending.lingers
    plan = world.decide_on(ending)
    assert world.deleted(plan) == set()


def test_a_pod_that_goes_already_is_not_told_again() -> None:
    done: dict[str, Any] = dict(world.decide_on(world.pod(exit_code=65)).status)
    leaving = world.pod(1, exit_code=143, deletion_timestamp="2026-01-01T01:00:00Z")
    assert world.decide_on(leaving, status=done, cleanPodPolicy="All").actions == ()
