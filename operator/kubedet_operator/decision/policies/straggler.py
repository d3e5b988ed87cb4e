"""Says which rank all others wait for, as long as it trains: rank 0 compares them, and knows no nodes."""

from __future__ import annotations

from kubedet_operator.api.conditions import ConditionType
from kubedet_operator.api.status import StragglerStatus
from kubedet_operator.decision.facts import Facts
from kubedet_operator.decision.plan import Draft
from kubedet_operator.decision.pods import PodFacts
from kubedet_trainer.contract import Straggler
from kubedet_trainer.contract.times import format_time, parse_time


def judge(facts: Facts, draft: Draft) -> Draft:
    """Name the straggler with its pod and node; none while the job does not train."""
    found = _find(facts, draft)
    return draft if found == draft.status.straggler else draft.change(straggler=found)


def _find(facts: Facts, draft: Draft) -> StragglerStatus | None:
    if draft.finished or draft.holds(ConditionType.RESTARTING):
        return None
    workers = [pod for pod in facts.workers if pod.ready and draft.counts_on(pod)]
    if facts.progress is None:  # nobody has answered this operator yet: what another one has seen holds
        known = facts.status.straggler
        return known if known and known.pod in {pod.name for pod in workers} else None
    told = facts.progress.straggler
    if told is None:
        return None
    located = (_locate(told, pod) for pod in workers if pod.index == told.replica)
    return next(located, None)


def _locate(told: Straggler, pod: PodFacts) -> StragglerStatus:
    return StragglerStatus(
        rank=told.rank,
        pod=pod.name,
        node=pod.node,
        ratio=told.ratio,
        since=format_time(parse_time(told.since)),
    )
