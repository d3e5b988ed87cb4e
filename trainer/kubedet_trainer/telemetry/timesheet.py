"""What rank 0 spends its time on: every second of a process belongs to one phase, and none to two."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from kubedet_trainer.contract import TimePhase, TimeSpent

_NOTHING: Mapping[TimePhase, float] = {}


class Timesheet:
    """Seconds by phase. All times are handed in, and are those of one monotonic clock."""

    def __init__(
        self, *, phase: TimePhase, now: float, since: str, before: TimeSpent | None = None, pause: float = 0.0
    ) -> None:
        """Begin with `phase`, or go on from what an earlier process of this worker counted.

        Args:
            phase: what the process does first.
            now: the present time.
            since: when the count begins, unless it goes on.
            before: the count of the earlier process.
            pause: seconds since that was written.
        """
        self._phase = phase
        self._mark = now - max(0.0, pause)
        self._since = before.since if before else since
        self._iterations = before.iterations if before else 0
        self._seconds: defaultdict[str, float] = defaultdict(float, before.seconds if before else {})

    def turn_to(self, phase: TimePhase, *, now: float) -> None:
        """Say what the time goes into from now on."""
        self.close(now)
        self._phase = phase

    def count_iteration(self, *, now: float, wait_seconds: float) -> None:
        """Note the end of an iteration, so many seconds of which it waited for data."""
        self._iterations += 1
        self.close(now, {TimePhase.DATA_WAIT: wait_seconds})

    def close(self, now: float, within: Mapping[TimePhase, float] = _NOTHING) -> None:
        """Book the time since the last entry, of which the seconds in `within` belong to other phases."""
        left = now - self._mark
        self._mark = now
        for phase, seconds in within.items():
            share = min(seconds, left)
            self._seconds[phase] += share
            left -= share
        self._seconds[self._phase] += left

    def goodput(self) -> float:
        """The share of training in all that was booked."""
        return self._seconds[TimePhase.TRAINING] / (sum(self._seconds.values()) or 1.0)

    def spent(self) -> TimeSpent:
        """What was booked until the last entry."""
        seconds = {str(phase): round(value, 3) for phase, value in self._seconds.items() if value > 0}
        return TimeSpent(since=self._since, iterations=self._iterations, seconds=seconds)
