"""The health of the process: what Prometheus and the kubelet's probes learn about its watches."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

LONGEST_SILENCE_SECONDS = 200
"""Watches of children are renewed every 10 s, and jobs are compared with a list every 60 s. After three
comparisons without success, and some time for the requests, the watch is stuck in this process."""

Stream = tuple[str, str | None]
"""Plural and namespace of a watch. None: the whole cluster."""


@dataclass
class Health:
    """Times at which each watch was last known to be current."""

    clock: Callable[[], float] = time.monotonic
    ready: bool = False
    """All objects have been listed: this replica reconciles jobs, or can take over without delay."""
    _current_at: dict[Stream, float] = field(default_factory=dict)
    _answered_at: dict[Stream, float] = field(default_factory=dict)

    def note_current(self, stream: Stream) -> None:
        """Note that the cache is current: after a list, an event, a bookmark or a renewal."""
        self._current_at[stream] = self._answered_at[stream] = self.clock()

    def note_failure(self, stream: Stream) -> None:
        """Note that a request failed and is repeated: a restart of this process would not help."""
        self._answered_at[stream] = self.clock()

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
        for (resource, _), at in self._answered_at.items():
            if (silent := self.clock() - at) > LONGEST_SILENCE_SECONDS:
                return f"the watch of {resource} has been silent for {silent:.0f} s"
        return None
