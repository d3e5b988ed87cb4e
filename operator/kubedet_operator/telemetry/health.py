"""Whether the process is well: what the probes of the kubelet are told."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Health:
    """When the parts of the process last gave a sign of life, in seconds of the monotonic clock."""

    loop_seconds: float = 30
    """The event loop is stuck if it gave no sign for this long."""
    watch_seconds: float = 200
    """A watch is dead after this long: it is renewed every 10 s."""
    loop_at: float = field(default_factory=time.monotonic)
    watched_at: dict[tuple[str, str | None], float] = field(default_factory=dict)
    """By resource and namespace; empty while no watch is supposed to run: the API server is away, say."""
    ready: bool = False
    """The world has been read: this replica reconciles jobs, or can take over at once."""

    def ages(self) -> dict[str, float]:
        """Seconds since the watch of each resource that was silent for longest gave a sign of life."""
        now = time.monotonic()
        ages: dict[str, float] = {}
        for (resource, _), at in list(self.watched_at.items()):
            ages[resource] = max(ages.get(resource, 0.0), now - at)
        return ages

    def complaint(self) -> str | None:
        """What a restart of the process would mend, or None if it is well."""
        stuck = time.monotonic() - self.loop_at
        if stuck > self.loop_seconds:
            return f"the event loop has been stuck for {stuck:.0f} s"
        for resource, age in self.ages().items():
            if age > self.watch_seconds:
                return f"the watch of {resource} has been silent for {age:.0f} s"
        return None
