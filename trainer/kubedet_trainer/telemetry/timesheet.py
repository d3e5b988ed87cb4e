"""What rank 0 spends its time on. Every second of the process belongs to exactly one phase."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from kubedet_trainer.contract import TimePhase, TimeSpent

_NOTHING: Mapping[TimePhase, float] = {}


class Timesheet:
    """Seconds by phase. The caller passes all times, from one monotonic clock."""

    def __init__(
        self, *, phase: TimePhase, now: float, since: str, before: TimeSpent | None = None, pause: float = 0.0
    ) -> None:
        """Begin in `phase`, or continue the count of an earlier process of this worker.

        Args:
            phase: what the process does first.
            now: the present time.
            since: when a new count begins.
            before: the count of the earlier process, if there was one.
            pause: seconds since that count was written.
        """
        self._phase = phase
        self._mark = now - max(0.0, pause)
        self._since = before.since if before else since
        self._iterations = before.iterations if before else 0
        self._seconds: defaultdict[str, float] = defaultdict(float, before.seconds if before else {})

    def switch_to(self, phase: TimePhase, *, now: float) -> None:
        """Count the time from now on as `phase`."""
        self.book(now)
        self._phase = phase

    def count_iteration(self, *, now: float, wait_seconds: float) -> None:
        """Count an iteration that has ended and waited `wait_seconds` for data."""
        self._iterations += 1
        self.book(now, {TimePhase.DATA_WAIT: wait_seconds})

    def book(self, now: float, parts: Mapping[TimePhase, float] = _NOTHING) -> None:
        """Book the time since the last entry: `parts` to their phases, the rest to the present phase."""
        left = now - self._mark
        self._mark = now
        for phase, seconds in parts.items():
            share = min(seconds, left)
            self._seconds[phase] += share
            left -= share
        self._seconds[self._phase] += left

    def goodput(self) -> float:
        """The share of training in all booked time."""
        return self._seconds[TimePhase.TRAINING] / (sum(self._seconds.values()) or 1.0)

    def spent(self) -> TimeSpent:
        """All time booked until the last entry."""
        seconds = {str(phase): round(value, 3) for phase, value in self._seconds.items() if value > 0}
        return TimeSpent(since=self._since, iterations=self._iterations, seconds=seconds)
