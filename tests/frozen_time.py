"""Parts of an operator in a time of its own, which goes by only where a test lets it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from clockwork import BEGINNING
from kubedet_operator.cluster.cache import Cache, Key
from kubedet_operator.control.workqueue import Timer, WorkQueue
from kubedet_trainer.contract.times import format_time


class Clock:
    """Time that goes by only where it is told to, for decisions and for the delays of the queue."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._timer: _Timer | None = None

    def now(self) -> datetime:
        return BEGINNING + timedelta(seconds=self._seconds)

    def time(self) -> float:
        return self._seconds

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        """The queue has one timer at a time."""
        self._timer = _Timer(when, callback)
        return self._timer

    def due(self) -> float | None:
        """When something is to happen next."""
        return self._timer.when if self._timer is not None and not self._timer.cancelled else None

    def turn(self, seconds: float) -> None:
        """Make it `seconds`, and call whom that wakes."""
        self._seconds = max(self._seconds, seconds)
        due = self.due()
        if due is not None and due <= self._seconds:
            timer, self._timer = self._timer, None
            assert timer is not None
            timer.callback()


class _Timer:
    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class WatchfulQueue(WorkQueue[Key]):
    """Tells when its one worker has nothing left to do."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.idle = asyncio.Event()

    def add(self, key: Key) -> None:
        self.idle.clear()
        super().add(key)

    async def get(self) -> Key:
        if not len(self):
            self.idle.set()
        return await super().get()


class TimelessCache(Cache):
    """Reads the stamps of the cluster's clock in the world's time."""

    def __init__(self, queue: WorkQueue[Key], clock: Clock) -> None:
        super().__init__(queue.add, queue.add)
        self._clock = clock
        self._first_seen: dict[tuple[str, ...], datetime] = {}

    def store_job(self, manifest: Mapping[str, Any]) -> bool:
        return super().store_job({**manifest, "metadata": self._read_metadata(manifest["metadata"])})

    def store_pod(self, manifest: Mapping[str, Any]) -> None:
        metadata, status = self._read_metadata(manifest["metadata"]), manifest.get("status") or {}
        conditions = [self._read_condition(metadata["uid"], item) for item in status.get("conditions") or ()]
        super().store_pod({**manifest, "metadata": metadata, "status": {**status, "conditions": conditions}})

    def _read_condition(self, uid: str, condition: Mapping[str, Any]) -> dict[str, Any]:
        stamp = condition.get("lastTransitionTime") or ""
        turned = self._see(uid, condition["type"], condition["status"], stamp)
        return {**condition, "lastTransitionTime": format_time(turned)}

    def _read_metadata(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        uid = metadata["uid"]
        read = {**metadata, "creationTimestamp": format_time(self._see(uid, "creation"))}
        if "deletionTimestamp" in metadata:
            grace = timedelta(seconds=metadata.get("deletionGracePeriodSeconds") or 0)
            read["deletionTimestamp"] = format_time(self._see(uid, "deletion") + grace)
        return read

    def _see(self, *what: str) -> datetime:
        return self._first_seen.setdefault(what, self._clock.now())
