"""Logs one line when the API server stops serving the watches, and one when it serves them again."""

from __future__ import annotations

import logging

from kubedet_operator.cluster import errors
from kubedet_operator.telemetry.health import Health, Stream

logger = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 0.25
LONGEST_RETRY_SECONDS = 3.0
"""Short, since every status is late until the streams are back; they are few."""

_TOLERATED = 1
"""Consecutive failures that are not logged: a single request may fail at any time."""


class Outages:
    """Knows which streams fail, when to try them again, and what has been logged about them."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._failures: dict[Stream, int] = {}
        self._told: set[str] = set()

    def fail(self, stream: Stream, error: errors.OperatorError) -> float:
        """Note a failure, and return the seconds to wait before the next attempt."""
        self._health.note_failure(stream)
        failures = self._failures.get(stream, 0)
        self._failures[stream] = failures + 1
        if failures >= _TOLERATED and error.reason not in self._told:
            self._told.add(error.reason)
            logger.error("%s; retrying at least every %.0f s", error, LONGEST_RETRY_SECONDS)
        if isinstance(error, errors.ApiBusy):
            return error.retry_after_seconds
        return min(FIRST_RETRY_SECONDS * 2.0 ** min(failures, 20), LONGEST_RETRY_SECONDS)

    def succeed(self, stream: Stream) -> None:
        """Note that a stream is served. The outage is over once all of them are."""
        self._health.note_current(stream)
        self._failures.pop(stream, None)
        if self._told and not self._failures:
            self._told.clear()
            logger.info("the API server serves the operator again")

    def forget(self) -> None:
        """Forget failures: no stream should be served now."""
        self._failures.clear()
