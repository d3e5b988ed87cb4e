"""Gates of a queue become a condition."""

from __future__ import annotations

import world
from kubedet_operator.decision.plan import Plan

GATED = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "gated"}
SCHEDULING = {"queue": "team-a"}


def _decide(*conditions: dict[str, str]) -> Plan:
    pod = world.pod(phase="Pending", node=None, ready=False, conditions=list(conditions))
    return world.decide_on(pod, schedulingPolicy=SCHEDULING)


def test_a_gated_worker_waits_for_quota_and_is_not_unschedulable() -> None:
    plan = _decide(GATED)
    assert world.condition(plan, "QuotaReserved") == (
        "False",
        "WaitingForQuota",
        "1 of 1 workers wait in queue team-a for quota",
    )
    assert world.condition(plan, "Initialized")[1] == "WaitingForPods"
    assert plan.status["phase"] == "Queued"


def test_a_worker_without_a_gate_is_admitted() -> None:
    assert world.condition(_decide(), "QuotaReserved")[:2] == ("True", "Admitted")


def test_a_queued_job_without_workers_waits() -> None:
    plan = world.decide_on(schedulingPolicy=SCHEDULING)
    assert world.condition(plan, "QuotaReserved")[:2] == ("False", "WaitingForQuota")


def test_a_job_in_no_queue_never_waits_for_one() -> None:
    assert world.condition(world.decide_on(), "QuotaReserved")[:2] == ("True", "NoQueue")
