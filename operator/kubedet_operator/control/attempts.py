"""The work on the keys of one queue: one at a time each, and again with growing delays what fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from kubedet_operator.cluster import errors
from kubedet_operator.cluster.cache import Key
from kubedet_operator.control.workqueue import FIRST_RETRY_SECONDS, WorkQueue
from kubedet_operator.telemetry.health import Health
from kubedet_operator.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)


class Attempts:
    """Calls `reconcile` for the keys of a queue, counts how that goes, and says what goes wrong."""

    def __init__(
        self,
        reconcile: Callable[[Key], Awaitable[None]],
        queue: WorkQueue[Key],
        metrics: Metrics,
        *,
        health: Health,
        task: str,
    ) -> None:
        """`health` is told of the work that gets done, as that of `task`."""
        self._reconcile = reconcile
        self._queue = queue
        self._metrics = metrics
        self._health = health
        self._task = task
        self._complaints: dict[Key, str] = {}

    async def work(self, leading: asyncio.Event) -> None:
        """Reconcile one key after the other while `leading` is set, for ever; run several of these."""
        while True:
            if not leading.is_set():
                self._health.rest(self._task)
            await leading.wait()
            key = await self._queue.get()
            self._health.expect_work(self._task)
            try:
                await self._attempt(key)
            finally:
                self._queue.done(key)
            self._health.note_work(self._task)
            if self._queue.is_idle:
                self._health.rest(self._task)

    def forget(self, key: Key) -> None:
        """Forget everything about `key`: its object is gone."""
        self._queue.forget(key)
        self._complaints.pop(key, None)

    async def _attempt(self, key: Key) -> None:
        try:
            with self._metrics["reconcile_duration"].time():
                await self._reconcile(key)
        except errors.NotLeading:
            self._queue.add(key)  # for the time when this replica leads again
        except errors.ApiBusy as error:
            # Not the key's failure: its next delay must not grow by it, nor a line be logged for each key.
            self._queue.add_after(key, max(error.retry_after_seconds, FIRST_RETRY_SECONDS))
            self._metrics["reconcile_errors"].labels(error.reason).inc()
            if not isinstance(error, errors.Paused):
                logger.warning("%s; retrying in %.1f s", error, error.retry_after_seconds)
        except errors.OperatorError as error:
            delay = self._queue.retry(key, longest_seconds=error.longest_retry_seconds)
            self._metrics["reconcile_errors"].labels(error.reason).inc()
            self._complain(key, str(error), delay)
        except Exception as error:
            delay = self._queue.retry(key, longest_seconds=errors.OperatorError.longest_retry_seconds)
            self._metrics["reconcile_errors"].labels("Unexpected").inc()
            self._complain(key, f"this is a bug in the operator: {error!r}", delay, traceback=error)
        else:
            self._complaints.pop(key, None)
            self._queue.succeed(key)

    def _complain(self, key: Key, message: str, delay: float, *, traceback: Exception | None = None) -> None:
        """One line for a new problem; the same one again is only counted."""
        if self._complaints.get(key) == message:
            return
        self._complaints[key] = message
        level = logging.ERROR if traceback else logging.WARNING
        line = "%s/%s: %s; retrying in %.1f s, then with growing delays"
        logger.log(level, line, *key, message, delay, exc_info=traceback)
