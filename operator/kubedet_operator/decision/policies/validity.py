"""Fails a job that breaks the API's rules, or whose recipe does, before it has any pod; and checks it again
when its spec changes."""

from __future__ import annotations

from kubedet_operator.api.conditions import ConditionType, Reason, find_condition
from kubedet_operator.decision.facts import Facts
from kubedet_operator.decision.plan import Draft


def judge(facts: Facts, draft: Draft) -> Draft:
    """Fail a job with an invalid spec, and withdraw the verdict when the spec is corrected."""
    failed = find_condition(draft.status.conditions, ConditionType.FAILED)
    if failed is not None and failed.status == "True" and failed.reason != Reason.INVALID_SPEC:
        return draft
    faults = [str(violation) for violation in facts.violations]
    if not faults and facts.fault and not draft.has_trained:
        faults = [facts.fault]
    if faults and not draft.holds(ConditionType.COMPLETE):
        return draft.end(ConditionType.FAILED, reason=Reason.INVALID_SPEC, message="; ".join(faults))
    if failed is not None and failed.status == "True":
        return draft.withdraw_failure()
    return draft
