"""The health of the process: what Prometheus and the kubelet's probes learn about its watches and tasks.

It tells of work that was done, not of loops that turn: a watch is as current as what it last told, and a task
with work to do is as healthy as the time since it last finished some.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

LONGEST_SILENCE_SECONDS = 200
"""Watches of children are renewed every 10 s, and jobs are compared with a list every 60 s. After three
comparisons without success, and some time for the requests, the watch is stuck in this process."""

LONGEST_WORK_SECONDS = 300
"""A task that has work to do finishes some of it within this time: no request may last longer than 30 s."""

MOST_ENDS = 5
"""A task that a bug has ended so often in a row is not helped by starting it again in this process."""
_REMEMBERED_SECONDS = 120
"""How long the end of a task counts: such a task ends again within a minute."""

RECONCILIATION = "reconciliation"
PROGRESS = "progress"
EVENTS = "events"
ZOOS = "zoos"
"""Tasks whose work is watched."""

Stream = tuple[str, str | None]
"""Plural and namespace of a watch. None: the whole cluster."""


@dataclass
class Health:
    """Times at which each watch was last known to be current, and at which each task last did some work."""

    clock: Callable[[], float] = time.monotonic
    ready: bool = False
    """All objects have been listed: this replica reconciles jobs, or can take over without delay."""
    _current_at: dict[Stream, float] = field(default_factory=dict)
    _answered_at: dict[Stream, float] = field(default_factory=dict)

    _worked_at: dict[str, float] = field(default_factory=dict)
    _ended_at: dict[str, tuple[int, float]] = field(default_factory=dict)

    def note_current(self, stream: Stream) -> None:
        """Note that the cache is current: after a list, an event, a bookmark or a renewal."""
        self._current_at[stream] = self._answered_at[stream] = self.clock()

    def note_failure(self, stream: Stream) -> None:
        """Note that a request failed and is repeated: a restart of this process would not help."""
        self._answered_at[stream] = self.clock()

    def expect_work(self, task: str) -> None:
        """Note that a task has something to do, if it had nothing to do before."""
        self._worked_at.setdefault(task, self.clock())

    def note_work(self, task: str) -> None:
        """Note that a task has finished some of its work, and has more to do."""
        self._worked_at[task] = self.clock()

    def rest(self, task: str) -> None:
        """Note that a task has nothing to do."""
        self._worked_at.pop(task, None)

    def note_end(self, task: str, failures: int) -> None:
        """Note that a task has ended by a bug, the number `failures` in a row. It is started again."""
        self._ended_at[task] = failures, self.clock()
        self.rest(task)

    def forget(self) -> None:
        """Forget all watches: none should run now."""
        self.ready = False
        self._current_at.clear()
        self._answered_at.clear()

    def ages(self) -> dict[str, float]:
        """Seconds since the watch of each resource was current; of several namespaces, the longest."""
        now = self.clock()
        ages: dict[str, float] = {}
        for (resource, _), at in self._current_at.items():
            ages[resource] = max(ages.get(resource, 0.0), now - at)
        return ages

    def complaint(self) -> str | None:
        """The problem that a restart of the process would fix, or None."""
        now = self.clock()
        for (resource, _), at in self._answered_at.items():
            if (silent := now - at) > LONGEST_SILENCE_SECONDS:
                return f"the watch of {resource} has been silent for {silent:.0f} s"
        for task, at in self._worked_at.items():
            if (idle := now - at) > LONGEST_WORK_SECONDS:
                return f"{task} has work to do and has finished none for {idle:.0f} s"
        for task, (failures, at) in self._ended_at.items():
            if failures >= MOST_ENDS and now - at < _REMEMBERED_SECONDS:
                return f"{task} has ended {failures} times in a row"
        return None
