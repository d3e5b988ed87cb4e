"""Rank 0 says which rank is slow; the status says in which pod and on which node, while that holds."""

from __future__ import annotations

from typing import Any

import pytest

import world
from kubedet_operator.decision.plan import Plan
from kubedet_operator.decision.pods import PodFacts
from kubedet_trainer import contract

TWO = {"worker": {"replicas": 2}}
SLOW = contract.Straggler(rank=3, replica=1, ratio=1.8, since="2026-01-01T00:50:00.123Z")
NAMED = {
    "rank": 3,
    "pod": "demo-worker-1",
    "node": "gpu-7",
    "ratio": 1.8,
    "since": "2026-01-01T00:50:00Z",
}


def _record(straggler: contract.Straggler | None = SLOW) -> contract.ProgressRecord:
    progress = contract.Progress(
        stage=contract.Stage.TRAINING, iteration=500, lastProgressTime="2026-01-01T00:59:59Z"
    )
    return contract.ProgressRecord(progress=progress, straggler=straggler, worldSize=4)


def _workers(**second: Any) -> tuple[PodFacts, PodFacts]:
    return world.pod(0), world.pod(1, **{"node": "gpu-7", **second})


def _decide(*pods: PodFacts, **what: Any) -> Plan:
    return world.decide_on(*pods, world.rendezvous(), **{**TWO, **what})


def test_the_straggler_is_named_with_pod_and_node_and_gone_when_it_is_over() -> None:
    plan = _decide(*_workers(), progress=_record())
    assert plan.status["straggler"] == NAMED
    over = _decide(*_workers(), progress=_record(None), status=plan.status)
    assert "straggler" not in over.status


def test_an_operator_that_has_not_heard_of_rank_0_yet_keeps_what_another_one_has_seen() -> None:
    assert _decide(*_workers(), status={"straggler": NAMED}).status["straggler"] == NAMED


@pytest.mark.parametrize("progress", [None, _record()], ids=["unheard", "heard"])
@pytest.mark.parametrize("second", [{"exit_code": 137}, {"ready": False}], ids=["dead", "not ready"])
def test_a_worker_that_does_not_train_holds_nobody_up(
    progress: contract.ProgressRecord | None, second: dict[str, Any]
) -> None:
    plan = _decide(*_workers(**second), status={"straggler": NAMED}, progress=progress)
    assert "straggler" not in plan.status


def test_what_rank_0_said_before_a_restart_does_not_count() -> None:
    restarting = {"type": "Restarting", "status": "True", "reason": "WorkerFailed", "message": ""}
    known = {**restarting, "lastTransitionTime": "2026-01-01T01:00:00Z"}
    plan = _decide(*_workers(), progress=_record(), status={"conditions": [known], "straggler": NAMED})
    assert "straggler" not in plan.status


def test_a_job_that_has_ended_has_no_straggler() -> None:
    ended = world.pod(0, exit_code=0, message=world.RESULTS)
    plan = _decide(ended, world.pod(1, node="gpu-7"), progress=_record(), status={"straggler": NAMED})
    assert world.condition(plan, "Complete")[0] == "True"
    assert "straggler" not in plan.status


def test_a_worker_that_does_not_exist_is_not_named() -> None:
    stranger = contract.Straggler(rank=3, replica=900, ratio=1.8, since="2026-01-01T00:50:00Z")
    assert "straggler" not in _decide(*_workers(), progress=_record(stranger)).status
