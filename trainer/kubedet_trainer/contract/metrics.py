"""What a metric is called and what it means: one form for the tables of metrics of both halves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Definition:
    """One metric as Prometheus will show it."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets."""
    known: tuple[str, ...] = ()
    """Values of the one label that are exposed as 0 from the start."""
    mode: Literal["mostrecent", "livemax"] = "mostrecent"
    """Which value a scrape sees of a gauge that several processes set: the newest, or the largest of the
    living ones."""

    def series(self) -> tuple[str, ...]:
        """Names of its series."""
        parts = ("_bucket", "_sum", "_count") if self.kind == "histogram" else ("",)
        return tuple(f"{self.name}{part}" for part in parts)
