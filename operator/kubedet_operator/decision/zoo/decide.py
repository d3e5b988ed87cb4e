"""What to do about one ModelZoo: a chain of policies from facts to a plan. Pure; the time is a fact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kubedet_operator.api import conditions, names
from kubedet_operator.api.conditions import ConditionType, Reason
from kubedet_operator.api.status import dump_status, keep_unknown
from kubedet_operator.api.zoo_status import ModelZooStatus
from kubedet_operator.decision.zoo.facts import ZooFacts
from kubedet_operator.decision.zoo.plan import ZooDraft, ZooPlan
from kubedet_operator.decision.zoo.policies import (
    completion,
    figures,
    obsolete,
    page,
    proposals,
    record,
    retention,
    start,
    suspension,
)
from kubedet_trainer.contract.times import format_time

ZooPolicy = Callable[[ZooFacts, ZooDraft], ZooDraft]

POLICIES: tuple[ZooPolicy, ...] = (
    record.judge,
    obsolete.judge,
    proposals.judge,
    suspension.judge,
    start.judge,
    completion.judge,
    figures.judge,
    page.judge,
    retention.judge,
)
"""In this order: each one sees what the ones before it have decided."""

REPAIR_SECONDS = 600
"""How often an unfinished zoo is looked at though nothing has happened."""


def decide_zoo(facts: ZooFacts) -> ZooPlan:
    """The status of the zoo, the jobs to create, suspend and delete, and when to decide again."""
    document = facts.parsed.document
    if document is not None and document.spec.managedBy != names.MANAGED_BY:
        return ZooPlan(status=facts.written_status)
    draft = ZooDraft(
        status=facts.status, now=format_time(facts.now), generation=facts.metadata.generation, runs={}
    )
    if facts.parsed.violations:
        return ZooPlan(status=_dump(facts, _refuse(facts, draft)))
    for policy in POLICIES:
        draft = policy(facts, draft)
    return ZooPlan(
        status=_dump(facts, draft),
        actions=draft.actions,
        awaits_page=draft.awaits_page,
        next_check_seconds=_next_check(facts, draft),
    )


def _refuse(facts: ZooFacts, draft: ZooDraft) -> ZooDraft:
    """The draft of an invalid zoo: it starts nothing, and keeps its rows and jobs until it is corrected."""
    message = "; ".join(str(violation) for violation in facts.parsed.violations)
    return draft.turn(ConditionType.FAILED, True, reason=Reason.INVALID_SPEC, message=message)


def _dump(facts: ZooFacts, draft: ZooDraft) -> dict[str, Any]:
    """The final status: what is derived, over what the policies decided."""
    status = replace(
        draft.status,
        observedGeneration=facts.metadata.generation,
        phase=conditions.derive_phase(draft.status.conditions).value,
        reason=conditions.derive_reason(draft.status.conditions),
    )
    return keep_unknown(dump_status(status), facts.written_status, ModelZooStatus)


def _next_check(facts: ZooFacts, draft: ZooDraft) -> float | None:
    if draft.check_at is None:
        return None if draft.finished else REPAIR_SECONDS
    seconds = max((draft.check_at - facts.now).total_seconds(), 0.5)
    return seconds if draft.finished else min(seconds, REPAIR_SECONDS)
