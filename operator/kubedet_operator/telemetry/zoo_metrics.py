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

    def __init__(
        self,
        zoos: Callable[[], Iterable[Mapping[str, Any]]],
        *,
        unreadable: Callable[[], None] = lambda: None,
    ) -> None:
        """`unreadable` is called for each zoo whose status gives no figures."""
        self._zoos = zoos
        self._unreadable = unreadable

    def collect(self) -> Iterator[Metric]:
        """The families, filled with the zoos of now."""
        families = {
            key: GaugeMetricFamily(definition.name, definition.help, labels=definition.labels)
            for key, definition in ZOO_TABLE.items()
        }
        for zoo in self._zoos():
            whose = (zoo["metadata"]["namespace"], zoo["metadata"]["name"])
            try:
                figures = list(_figures(zoo.get("status") or {}))
            except Exception:  # others write statuses, too: one zoo must not keep all from a scrape
                self._unreadable()
                continue
            for key, label, value in figures:
                families[key].add_metric((*whose, label), value)
        yield from families.values()


def _figures(status: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """The figures of one zoo: key in `ZOO_TABLE`, the last label, value."""
    for phase in _PHASES:
        yield "rows", phase, float((status.get("counts") or {}).get(phase, 0))
    for metric, found in (status.get("differences") or {}).items():
        yield "difference", metric, float(found["mean"])
