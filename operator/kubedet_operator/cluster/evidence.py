"""Which nodes have broken workers of several jobs, by an index over the statuses of all jobs.

Nothing is known here that the jobs do not tell, so that a restart forgets nothing and all replicas of the
operator know the same. A job that is deleted takes its evidence along.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from kubedet_operator.api.status import MAX_EXCLUDED_NODES, ExcludedNode
from kubedet_operator.decision.evidence import SUSPECT_JOBS, Evidence, judge_node, read_evidence
from kubedet_trainer.contract.times import parse_time

Key = tuple[str, str]
"""Namespace and name of a job."""

_NEVER = datetime.max.replace(tzinfo=UTC)


class NodeEvidence:
    """An index that costs something only when a job has failed."""

    def __init__(self) -> None:
        self._by_job: dict[Key, dict[str, Evidence]] = {}
        self._by_node: defaultdict[str, dict[Key, Evidence]] = defaultdict(dict)
        self._suspects: tuple[ExcludedNode, ...] = ()
        self._valid_until: datetime | None = None
        """None: not judged since the evidence changed."""

    def note(self, key: Key, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> None:
        """Take in that a job is not as it was; None: it was or is not there."""
        if before is not None and after is not None and _history(before) == _history(after):
            return
        known = self._by_job.pop(key, {})
        found = read_evidence(after) if after is not None else {}
        if found:
            self._by_job[key] = found
        for node in known.keys() - found.keys():
            del self._by_node[node][key]
            if not self._by_node[node]:
                del self._by_node[node]
        for node, evidence in found.items():
            self._by_node[node][key] = evidence
        if found != known:
            self._valid_until = None

    def suspects(self, now: datetime) -> tuple[ExcludedNode, ...]:
        """The nodes that all jobs avoid at present, those with most broken jobs first."""
        if self._valid_until is None or now >= self._valid_until:
            judged = [
                judge_node(node, against.values(), now=now)
                for node, against in self._by_node.items()
                if len(against) >= SUSPECT_JOBS
            ]
            found = sorted((node for node in judged if node), key=lambda node: (-node.failures, node.name))
            self._suspects = tuple(found[:MAX_EXCLUDED_NODES])
            self._valid_until = min((parse_time(node.until) for node in found), default=_NEVER)
        return self._suspects


def _history(job: Mapping[str, Any]) -> Any:
    return job["status"].get("failureHistory")
