"""Events that tell the story of a run in `kubectl describe`: few, counted up, never waited for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kubedet_operator.api import names
from kubedet_operator.api.conditions import ConditionType
from kubedet_operator.api.status import StragglerStatus
from kubedet_operator.cluster import errors
from kubedet_operator.cluster.client import Cluster
from kubedet_operator.telemetry.health import EVENTS, Health
from kubedet_operator.telemetry.metrics import Metrics
from kubedet_trainer.contract.times import format_now

logger = logging.getLogger(__name__)

CAPACITY = 1000
"""Events that wait to be written; further ones are dropped."""

PER_SECOND = 10.0
"""Jobs go first: a thousand that start at once tell of it over the next minutes."""

REMEMBERED = 2000
"""Events that are counted up when they happen again."""

MESSAGE_BYTES = 1024
_SECOND_HALF = {ConditionType.SUSPENDED, ConditionType.RESTARTING, ConditionType.DEGRADED}
"""Conditions whose end is worth a word, too."""

_WARNINGS = {ConditionType.FAILED, ConditionType.DEGRADED}
_TELLING = (
    ConditionType.FAILED,
    ConditionType.COMPLETE,
    ConditionType.SUSPENDED,
    ConditionType.DEGRADED,
    ConditionType.RESTARTING,
    ConditionType.RUNNING,
    ConditionType.INITIALIZED,
)
"""Of several conditions that turn at once the first of these is told."""


@dataclass(frozen=True, kw_only=True)
class Occurrence:
    """Something that happened to a job or a zoo."""

    warning: bool
    reason: str
    message: str


def compare_statuses(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Occurrence]:
    """What happened between two statuses: a restart, a straggler, the most telling condition that turned."""
    failure = after.get("lastFailure") or {}
    if _restarts(after) > _restarts(before) and failure:
        where = (
            f"{failure.get('pod')} on {failure.get('node')}" if failure.get("node") else failure.get("pod")
        )
        code = f" with exit code {failure['exitCode']}" if failure.get("exitCode") is not None else ""
        message = f"{where} failed{code} ({failure.get('class')}): {failure.get('message') or ''}"
        yield Occurrence(warning=True, reason=str(failure.get("reason")), message=message)
    if (slow := after.get("straggler")) and slow["pod"] != (before.get("straggler") or {}).get("pod"):
        yield Occurrence(warning=True, reason="StragglerFound", message=str(StragglerStatus(**slow)))
    known = {item["type"]: item["status"] for item in before.get("conditions") or ()}
    turned = {
        item["type"]: item
        for item in after.get("conditions") or ()
        if item["status"] != known.get(item["type"], "False")
    }
    for kind in _TELLING:
        condition = turned.get(kind)
        if condition is None or (condition["status"] != "True" and kind not in _SECOND_HALF):
            continue
        holds = condition["status"] == "True"
        if kind == ConditionType.RESTARTING and holds:
            continue  # the failure itself has been told
        yield Occurrence(
            warning=holds and kind in _WARNINGS, reason=condition["reason"], message=condition["message"]
        )
        return


class Events:
    """Writes what is recorded, in order and at leisure."""

    def __init__(self, cluster: Cluster, *, metrics: Metrics, health: Health) -> None:
        self._cluster = cluster
        self._health = health
        self._dropped = metrics["events_dropped"]
        self._waiting: asyncio.Queue[tuple[dict[str, Any], Occurrence]] = asyncio.Queue(CAPACITY)
        self._written: OrderedDict[tuple[str, Occurrence], tuple[str, int]] = OrderedDict()

    def record(self, subject: Mapping[str, Any], occurrence: Occurrence) -> None:
        """Have an occurrence written some time; it is dropped and counted where too many wait."""
        try:
            self._waiting.put_nowait((_refer(subject), occurrence))
        except asyncio.QueueFull:
            self._dropped.inc()

    async def run(self) -> None:
        """Write what is recorded, for ever. What the API server does not take is dropped."""
        while True:
            if self._waiting.empty():
                self._health.rest(EVENTS)
            involved, occurrence = await self._waiting.get()
            self._health.note_work(EVENTS)
            try:
                await self._write(involved, occurrence)
            except errors.OperatorError as error:
                self._dropped.inc()
                logger.debug("an Event was dropped: %s", error)
                if isinstance(error, errors.ApiBusy):
                    await asyncio.sleep(error.retry_after_seconds)
            await asyncio.sleep(1 / PER_SECOND)

    async def _write(self, involved: Mapping[str, Any], occurrence: Occurrence) -> None:
        now = format_now()
        key = (involved["uid"], occurrence)
        if known := self._written.pop(key, None):
            name, count = known
            try:
                change = {"count": count + 1, "lastTimestamp": now}
                await self._cluster.repeat_event(involved["namespace"], name, change)
            except errors.NotFound:
                pass  # the API server forgets Events after an hour
            else:
                self._written[key] = (name, count + 1)
                return
        name = f"{involved['name']}.{time.time_ns():x}"
        await self._cluster.write_event(_build(involved, occurrence, name=name, now=now))
        self._written[key] = (name, 1)
        if len(self._written) > REMEMBERED:
            self._written.popitem(last=False)


def _refer(subject: Mapping[str, Any]) -> dict[str, Any]:
    """The reference to a job or a zoo that an Event carries."""
    metadata = subject["metadata"]
    return {
        "apiVersion": names.API_VERSION,
        "kind": subject["kind"],
        **{field: metadata[field] for field in ("namespace", "name", "uid", "resourceVersion")},
    }


def _build(involved: Mapping[str, Any], occurrence: Occurrence, *, name: str, now: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": involved["namespace"]},
        "involvedObject": dict(involved),
        "type": "Warning" if occurrence.warning else "Normal",
        "reason": occurrence.reason,
        "message": occurrence.message.encode()[:MESSAGE_BYTES].decode(errors="ignore"),
        "source": {"component": names.FIELD_MANAGER},
        "reportingComponent": names.FIELD_MANAGER,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }


def _restarts(status: Mapping[str, Any]) -> int:
    counts = status.get("restarts") or {}
    return int(counts.get("application", 0)) + int(counts.get("infrastructure", 0))
