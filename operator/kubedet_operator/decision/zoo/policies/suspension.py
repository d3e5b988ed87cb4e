"""Suspension of the whole table: its unfinished jobs save their state, and no other begins."""

from __future__ import annotations

from dataclasses import replace

from kubedet_operator.api.conditions import ConditionType, Reason
from kubedet_operator.api.zoo_status import RunPhase
from kubedet_operator.decision.zoo.facts import ZooFacts
from kubedet_operator.decision.zoo.plan import SuspendJob, ZooDraft


def judge(facts: ZooFacts, draft: ZooDraft) -> ZooDraft:
    """Suspend the jobs of a suspended zoo; resume those that the zoo, and nobody else, has suspended."""
    unfinished = [child for child in facts.children.values() if not child.ended and not child.deleting]
    if not facts.spec.suspend:
        resumed = [child for child in unfinished if child.suspended_by_zoo]
        draft = draft.act(*(SuspendJob(name=child.name, uid=child.uid, suspend=False) for child in resumed))
        held = draft.holds(ConditionType.SUSPENDED) or bool(resumed)
        reason = Reason.RESUMED if held else Reason.NOT_SUSPENDED
        known = [item for item in draft.status.conditions if item.type == ConditionType.SUSPENDED]
        if not held and known and known[0].reason == Reason.RESUMED:
            return draft
        return draft.turn(ConditionType.SUSPENDED, False, reason=reason, message="spec.suspend is false")
    draft = replace(draft, may_create=False).act(
        *(
            SuspendJob(name=child.name, uid=child.uid, suspend=True)
            for child in unfinished
            if not child.suspend
        )
    )
    saving = sum(child.phase is not RunPhase.SUSPENDED for child in unfinished)
    if saving:
        return draft.turn(
            ConditionType.SUSPENDED,
            False,
            reason=Reason.SUSPENDING,
            message=f"{saving} jobs save their state and end",
        )
    return draft.turn(
        ConditionType.SUSPENDED,
        True,
        reason=Reason.SUSPEND_REQUESTED,
        message="spec.suspend is true and every unfinished job is suspended; set it to false to continue",
    )
