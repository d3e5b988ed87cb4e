"""The health of the process, as the kubelet's probes ask for it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Health:
    """Times at which the parts of the process last gave a sign of life, in seconds of the monotonic clock."""

    loop_seconds: float = 30
    """Age at which the event loop counts as stuck."""
    watch_seconds: float = 200
    """Age at which a watch counts as lost: it has missed twenty renewals, one every 10 s."""
    loop_at: float = field(default_factory=time.monotonic)
    watched_at: dict[tuple[str, str | None], float] = field(default_factory=dict)
    """By resource and namespace. Empty while no watch should run, as when the API server is away."""
    ready: bool = False
    """All objects have been listed: this replica reconciles jobs, or can take over without delay."""

    def ages(self) -> dict[str, float]:
        """Age in seconds of the most silent watch of each resource."""
        now = time.monotonic()
        ages: dict[str, float] = {}
        for (resource, _), at in list(self.watched_at.items()):
            ages[resource] = max(ages.get(resource, 0.0), now - at)
        return ages

    def complaint(self) -> str | None:
        """The problem that a restart of the process would fix, or None."""
        stuck = time.monotonic() - self.loop_at
        if stuck > self.loop_seconds:
            return f"the event loop has been stuck for {stuck:.0f} s"
        for resource, age in self.ages().items():
            if age > self.watch_seconds:
                return f"the watch of {resource} has been silent for {age:.0f} s"
        return None
