"""Suspension: the workers save their state and end, their pods are deleted, and a resume continues later.

A person or Kueue, who sets spec.suspend, may change worker.replicas meanwhile: a resume is a new attempt.
"""

from __future__ import annotations

from kubedet_operator.api.conditions import ConditionType, Reason, find_condition
from kubedet_operator.decision.facts import Facts
from kubedet_operator.decision.plan import Draft


def judge(facts: Facts, draft: Draft) -> Draft:
    """Have the pods of a suspended job end, the rendezvous last; let a resumed one have new ones."""
    if draft.finished or facts.job is None:
        return draft
    condition = find_condition(draft.status.conditions, ConditionType.SUSPENDED)
    begun = condition is not None and condition.reason in (Reason.SUSPENDING, Reason.SUSPEND_REQUESTED)
    if facts.job.spec.suspend:
        return _suspend(facts, draft, begun=begun)
    if not begun:
        return draft
    return draft.turn(
        ConditionType.SUSPENDED, False, reason=Reason.RESUMED, message="continues from the newest checkpoint"
    )


def _suspend(facts: Facts, draft: Draft, *, begun: bool) -> Draft:
    draft = draft.rest().change(elastic=None)
    for condition_type, reason in (
        (ConditionType.INITIALIZED, Reason.SUSPEND_REQUESTED),
        (ConditionType.RUNNING, Reason.WORKERS_NOT_RUNNING),
        (ConditionType.RESTARTING, Reason.SUSPEND_REQUESTED),
        (ConditionType.DEGRADED, Reason.AS_EXPECTED),
    ):
        draft = draft.turn(condition_type, False, reason=reason, message="spec.suspend is true")
    if not begun and draft.status.startTime is not None:
        draft = draft.renew(facts.workers)
    saving = [pod for pod in facts.workers if not pod.ended]
    # The workers say goodbye at the rendezvous: it outlives them.
    draft = draft.retire(facts.workers if saving else facts.pods)
    if facts.pods:
        return draft.turn(
            ConditionType.SUSPENDED,
            False,
            reason=Reason.SUSPENDING,
            message=f"{len(saving)} workers save their state and end",
        )
    return draft.turn(
        ConditionType.SUSPENDED,
        True,
        reason=Reason.SUSPEND_REQUESTED,
        message="spec.suspend is true and all pods are deleted; set it to false to continue",
    )
