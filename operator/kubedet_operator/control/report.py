"""What a new status says for the first time: log lines, Events and counters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from kubedet_operator.api.conditions import ConditionType, Reason
from kubedet_operator.cluster.cache import Key
from kubedet_operator.cluster.events import Events, compare_statuses
from kubedet_operator.telemetry.metrics import Metrics
from kubedet_trainer.contract.times import parse_time

logger = logging.getLogger(__name__)

_FAILURES = (Reason.WORKER_FAILED, Reason.WORKER_LOST)
"""Why a job restarts, unless somebody wants it to."""


class Reporter:
    """Tells people and Prometheus what the status of a job has turned to."""

    def __init__(self, metrics: Metrics, events: Events, clock: Callable[[], datetime]) -> None:
        self._metrics = metrics
        self._events = events
        self._clock = clock

    def report(self, key: Key, manifest: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        """Log and count what the new status says for the first time."""
        before, after = _conditions(manifest["status"]), _conditions(status)
        for kind, condition in after.items():
            turned = before.get(kind, {}).get("status") != condition["status"]
            if turned and (condition["status"] == "True" or kind in before):
                line = f"{condition['reason']}: {condition['message']}"
                logger.info("%s/%s: %s=%s %s", *key, kind, condition["status"], line)
        for occurrence in compare_statuses(manifest["status"], status):
            self._events.record(manifest, occurrence)
        self._count(manifest, status, before, after)

    def _count(
        self,
        manifest: Mapping[str, Any],
        status: Mapping[str, Any],
        before: Mapping[str, Mapping[str, Any]],
        after: Mapping[str, Mapping[str, Any]],
    ) -> None:
        def became(kind: ConditionType, value: str) -> bool:
            return bool(
                before.get(kind, {}).get("status") != value and after.get(kind, {}).get("status") == value
            )

        for kind in (ConditionType.COMPLETE, ConditionType.FAILED):
            if became(kind, "True"):
                self._metrics["finished"].labels(kind.value).inc()
        old, new = manifest["status"].get("restarts") or {}, status["restarts"]
        for field in ("application", "infrastructure"):
            self._metrics["restarts"].labels(field.title()).inc(max(new[field] - old.get(field, 0), 0))
        now = self._clock()
        if became(ConditionType.RUNNING, "True") and not (new["application"] or new["infrastructure"]):
            created = parse_time(manifest["metadata"]["creationTimestamp"])
            self._metrics["time_to_running"].observe((now - created).total_seconds())
        has_failed = before.get(ConditionType.RESTARTING, {}).get("reason") in _FAILURES
        if has_failed and became(ConditionType.RESTARTING, "False") and "completionTime" not in status:
            failure = status["lastFailure"]
            seconds = (now - parse_time(failure["time"])).total_seconds()
            self._metrics["recovery"].labels(failure["class"]).observe(max(seconds, 0.0))


def _conditions(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {condition["type"]: condition for condition in status.get("conditions") or ()}
