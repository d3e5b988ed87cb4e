"""Fails a job that breaks the API's rules, or whose recipe does, before it has any pod; and checks it again
when its spec changes.

Versions of the operator differ in what they refuse. A job that another version has admitted goes on for as
long as it needs no new pod.
"""

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
        if _is_admitted(facts, draft):
            # Where the spec can be read, the pods decide what Degraded says.
            return _tell(draft, faults) if facts.job is None else draft
        return draft.end(ConditionType.FAILED, reason=Reason.INVALID_SPEC, message="; ".join(faults))
    if failed is not None and failed.status == "True":
        return draft.withdraw_failure()
    return draft


def _is_admitted(facts: Facts, draft: Draft) -> bool:
    """Whether an operator of another version has taken this spec, and every worker is there."""
    wanted = draft.status.workers.desired if draft.status.workers else 0
    there = [pod for pod in facts.workers if draft.counts_on(pod) or pod.phase == "Succeeded"]
    return not facts.spec_changed and not draft.finished and 0 < wanted <= len(there)


def _tell(draft: Draft, faults: list[str]) -> Draft:
    return draft.turn(
        ConditionType.DEGRADED,
        True,
        reason=Reason.INVALID_SPEC,
        message=f"this version of the operator refuses the spec: {'; '.join(faults)}; the workers continue, "
        "and the job fails once one of them must be replaced; correct the spec, or upgrade the operator",
    )
