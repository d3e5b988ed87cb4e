"""Figures of the zoos, read out of their statuses when Prometheus asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kubedet_trainer.contract.metrics import Definition

_ZOO = ("namespace", "name")
_PHASES = ("pending", "running", "succeeded", "failed")

ZOO_TABLE: Mapping[str, Definition] = {
    "rows": Definition(
        kind="gauge",
        name="kubedet_zoo_rows",
        help="Rows of a zoo, by phase: pending, running, succeeded or failed.",
        labels=(*_ZOO, "phase"),
    ),
    "difference": Definition(
        kind="gauge",
        name="kubedet_zoo_difference",
        help="Mean of ours minus published over the rows that can be compared, in percentage points.",
        labels=(*_ZOO, "metric"),
    ),
}
"""What is read out of the zoos' manifests whenever Prometheus asks."""


class ZooCollector(Collector):
    """Reads the figures of every zoo out of its status, at the moment of a scrape."""

    def __init__(self, zoos: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
        self._zoos = zoos

    def collect(self) -> Iterator[Metric]:
        """The families, filled with the zoos of now."""
        families = {
            key: GaugeMetricFamily(definition.name, definition.help, labels=definition.labels)
            for key, definition in ZOO_TABLE.items()
        }
        for zoo in self._zoos():
            status, whose = zoo.get("status") or {}, (zoo["metadata"]["namespace"], zoo["metadata"]["name"])
            for phase in _PHASES:
                families["rows"].add_metric((*whose, phase), (status.get("counts") or {}).get(phase, 0))
            for metric, found in (status.get("differences") or {}).items():
                families["difference"].add_metric((*whose, metric), found["mean"])
        yield from families.values()
