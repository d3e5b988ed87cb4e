"""What failures of several jobs say about nodes: a node that breaks one job after the other is suspect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from kubedet_operator.api import decoding
from kubedet_operator.api.policies import FailurePolicy
from kubedet_operator.api.status import ExcludedNode, FailureRecord
from kubedet_operator.decision.policies import exclusion
from kubedet_trainer.contract.times import format_time, read_time

SUSPECT_JOBS = 3
"""All jobs avoid a node that has broken workers of so many jobs."""

SUSPECT_SECONDS = 3600
"""A failure speaks against its node for so long."""


class Evidence(NamedTuple):
    """The newest failure of one job that speaks against a node."""

    time: datetime
    reason: str


def read_evidence(manifest: Mapping[str, Any]) -> dict[str, Evidence]:
    """What the status of the job in `manifest` holds against nodes, by the node's name."""
    history = (manifest.get("status") or {}).get("failureHistory")
    if not history or not isinstance(history, list):
        return {}
    given = (manifest.get("spec") or {}).get("failurePolicy") or {}
    policy = decoding.decode(FailurePolicy, given, path="", found=[], strict=False) or FailurePolicy()
    against: dict[str, Evidence] = {}
    for item in history:
        record = decoding.decode(FailureRecord, item, path="", found=[], strict=False)
        if record is None or record.node is None or not exclusion.speaks_against_node(policy, record):
            continue
        time, known = read_time(item.get("time")), against.get(record.node)
        if time is not None and (known is None or known.time < time):
            against[record.node] = Evidence(time, record.reason)
    return against


def is_fresh(evidence: Evidence, *, now: datetime) -> bool:
    """Whether it still counts."""
    return evidence.time > now - timedelta(seconds=SUSPECT_SECONDS)


def judge_node(name: str, against: Iterable[Evidence], *, now: datetime) -> ExcludedNode | None:
    """How jobs avoid the node `name`, or None if too little speaks `against` it: one item for each job."""
    fresh = sorted((item for item in against if is_fresh(item, now=now)), reverse=True)
    if len(fresh) < SUSPECT_JOBS:
        return None
    return ExcludedNode(
        name=name,
        mode="Preferred",
        reason=fresh[0].reason,
        message=f"it has broken workers of {len(fresh)} jobs within {SUSPECT_SECONDS} s",
        failures=len(fresh),
        until=format_time(fresh[SUSPECT_JOBS - 1].time + timedelta(seconds=SUSPECT_SECONDS)),
    )
