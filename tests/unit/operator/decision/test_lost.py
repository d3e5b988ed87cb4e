"""Pods that nobody is left to end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

import world
from kubedet_operator.decision.plan import DeletePod, Plan

GONE_BY = "2026-01-01T01:00:00Z"


def _decide(seconds: float, reason: str = "DeletionByTaintManager", **fields: Any) -> Plan:
    told = {"type": "DisruptionTarget", "status": "True", "reason": reason}
    pod = world.pod(conditions=[told], deletion_timestamp=GONE_BY, **fields)
    return world.decide_on(pod, now=world.NOW + timedelta(seconds=seconds))


def test_a_pod_of_a_lost_node_is_forced_away_when_its_grace_is_over() -> None:
    assert _decide(10).next_check_seconds == 20
    assert DeletePod(name="demo-worker-0", uid="uid-0", force=True) in _decide(30).actions


@pytest.mark.parametrize(
    "what", [{"reason": "PreemptionByScheduler"}, {"reason": "EvictionByEvictionAPI"}, {"exit_code": 143}]
)
def test_a_pod_that_somebody_is_still_ending_is_not(what: dict[str, Any]) -> None:
    plan = _decide(86400, **what)
    assert not any(isinstance(action, DeletePod) and action.force for action in plan.actions)
