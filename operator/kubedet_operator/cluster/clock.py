"""The time that decisions are made by: the API server's, carried on by the steady clock of this process.

The API server and its controllers write the times into objects, and operators compare them. So the clock of
the operator's node does not matter, replicas agree, and a clock that somebody sets moves no deadline by more
than a tenth of the time that passes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

logger = logging.getLogger(__name__)

SLEW = 0.1
"""The time of decisions approaches another one by so many seconds in each second: it never jumps."""

TOLERATED_SECONDS = 2.0
"""An answer is dated in whole seconds and was on its way. What differs by less is the same time."""

TOLD_SECONDS = 60
"""A difference that a person should know of."""

_PAUSE_SECONDS = 1.0
"""Answers that come faster are not looked at."""


def read_date(text: str | None) -> datetime | None:
    """The time in an HTTP ``Date``, whose zone is always GMT; None if there is none."""
    try:
        return parsedate_to_datetime(text or "").replace(tzinfo=UTC)
    except ValueError:
        return None


class ClusterClock:
    """A clock that never jumps. Without answers it continues from this machine's time at the start."""

    def __init__(
        self, *, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic
    ) -> None:
        """`wall` is UNIX time and read once; `steady` never goes back."""
        self._steady = steady
        self._moved_at = steady()
        self._offset = wall() - self._moved_at
        """UNIX time of decisions minus steady time."""
        self._wanted = self._offset
        """The same by the API server's answers."""
        self._noted_at: float | None = None
        self._is_told = False
        self._moving = threading.Lock()
        """A scrape asks in another thread."""

    def now(self) -> datetime:
        """The time that decisions are made by."""
        with self._moving:
            now = self._steady()
            most = SLEW * (now - self._moved_at)
            self._moved_at = now
            self._offset += max(-most, min(self._wanted - self._offset, most))
            return datetime.fromtimestamp(now + self._offset, UTC)

    def note(self, date: str | None) -> None:
        """Take in the ``Date`` of an answer that has just come. The first one sets the clock."""
        now = self._steady()
        if self._noted_at is not None and now - self._noted_at < _PAUSE_SECONDS:
            return
        if (sent := read_date(date)) is None:
            return
        said = sent.timestamp() + 0.5 - now
        differs = abs(said - self._offset) > TOLERATED_SECONDS
        self._wanted = said if differs else self._offset
        self._tell(said - self._offset, is_first=self._noted_at is None)
        if self._noted_at is None:
            self._offset = self._wanted
        self._noted_at = now

    def _tell(self, seconds: float, *, is_first: bool) -> None:
        is_wrong = abs(seconds) > TOLD_SECONDS
        if is_wrong and not self._is_told:
            logger.warning(
                "the API server's clock is %.0f s %s %s; check the time service of both machines",
                abs(seconds),
                "ahead of" if seconds > 0 else "behind",
                "this machine's" if is_first else "what it was",
            )
        self._is_told = is_wrong
