"""Proposals of another job: a job with dataset.proposals.fromJob has no pods before they are there."""

from __future__ import annotations

from dataclasses import replace

from kubedet_operator.api.conditions import ConditionType, Reason
from kubedet_operator.decision.facts import Facts
from kubedet_operator.decision.plan import Draft


def judge(facts: Facts, draft: Draft) -> Draft:
    """Note where the proposals are once they are there; until then hold the pods back and say why."""
    if draft.finished or facts.job is None or facts.job.spec.suspend or draft.status.proposals is not None:
        return draft
    given = facts.job.spec.dataset.proposals
    if given is None or given.fromJob is None:
        return draft
    if facts.source is not None and facts.source.place is not None:
        return draft.change(proposals=facts.source.place)
    missing = facts.source.missing if facts.source else "does not exist yet"
    draft = draft.turn(
        ConditionType.INITIALIZED,
        False,
        reason=Reason.WAITING_FOR_PROPOSALS,
        message=f"job {given.fromJob}, whose proposals this job takes, {missing}",
    )
    draft = draft.turn(
        ConditionType.QUOTA_RESERVED, True, reason=Reason.NO_QUEUE, message="no worker waits for quota"
    )
    return replace(draft, indices=())
