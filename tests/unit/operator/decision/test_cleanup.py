"""What is left of a finished job."""

from __future__ import annotations

from typing import Any

import pytest

import world

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


def test_a_pod_that_goes_already_is_not_told_again() -> None:
    done: dict[str, Any] = dict(world.decide_on(world.pod(exit_code=65)).status)
    leaving = world.pod(1, exit_code=143, deletion_timestamp="2026-01-01T01:00:00Z")
    assert world.decide_on(leaving, status=done, cleanPodPolicy="All").actions == ()
