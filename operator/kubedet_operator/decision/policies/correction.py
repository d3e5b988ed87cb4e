"""Starts over when what identifies the training is corrected, as is allowed before a worker trains.

Workers that were created for another training end, and a job that failed before it trained is active again.
"""

from __future__ import annotations

from dataclasses import replace

from kubedet_operator.api.conditions import ConditionType
from kubedet_operator.api.status import RestartCounts
from kubedet_operator.decision.facts import Facts
from kubedet_operator.decision.plan import Draft


def judge(facts: Facts, draft: Draft) -> Draft:
    """Have new workers begin a new attempt if the spec asks for another training than theirs."""
    known = draft.status.training
    if facts.job is None or known == facts.training or draft.holds(ConditionType.COMPLETE):
        return draft
    if known is None:  # no worker yet, or an operator of an earlier version created them
        has_workers = draft.status.startTime is not None and not draft.finished
        return draft.change(training=facts.training) if has_workers else draft
    if not facts.spec_changed:  # an operator of another version has another digest for the same training
        return draft.change(training=facts.training)
    restarts = draft.status.restarts or RestartCounts()
    draft = draft.renew(facts.workers).change(
        training=facts.training,
        progress=None,
        checkpoint=None,
        restarts=replace(restarts, withoutProgress=0, applicationWithoutProgress=0, checkpointIteration=0),
    )
    return draft.withdraw_failure() if draft.holds(ConditionType.FAILED) else draft
