"""Fails a job that breaks the API's rules before it has any pod; checks it again when its spec changes."""

from __future__ import annotations

from kubedet_operator.api.conditions import ConditionType, Reason, find_condition
from kubedet_operator.decision.facts import Facts
from kubedet_operator.decision.plan import Draft


def judge(facts: Facts, draft: Draft) -> Draft:
    """Fail a job with an invalid spec, and withdraw the verdict when the spec is corrected."""
    failed = find_condition(draft.status.conditions, ConditionType.FAILED)
    if failed is not None and failed.status == "True" and failed.reason != Reason.INVALID_SPEC:
        return draft
    if facts.violations and not draft.holds(ConditionType.COMPLETE):
        message = "; ".join(str(violation) for violation in facts.violations)
        return draft.end(ConditionType.FAILED, reason=Reason.INVALID_SPEC, message=message)
    if failed is not None and failed.status == "True":
        corrected = draft.turn(
            ConditionType.FAILED, False, reason=Reason.NOT_FAILED, message="the spec was corrected"
        )
        return corrected.change(completionTime=None)
    return draft
