"""What is left of a finished job: pods that have ended stay for their logs, the others are stopped."""

from __future__ import annotations

from dataclasses import replace

from kubedet_operator.api.conditions import ConditionType, Reason
from kubedet_operator.facts import Facts
from kubedet_operator.plan import DeletePod, Draft

_ENDS = {
    ConditionType.RUNNING: Reason.WORKERS_NOT_RUNNING,
    ConditionType.RESTARTING: Reason.RECOVERED,
    ConditionType.DEGRADED: Reason.AS_EXPECTED,
}


def judge(facts: Facts, draft: Draft) -> Draft:
    """Stop what still runs of a job that has ended."""
    if not draft.finished:
        return draft
    for condition_type, reason in _ENDS.items():
        if draft.holds(condition_type):
            draft = draft.turn(condition_type, False, reason=reason, message="the job has ended")
    running = tuple(DeletePod(name=pod.name, uid=pod.uid) for pod in facts.pods if pod.active)
    return replace(draft, deletions=draft.deletions + running)
