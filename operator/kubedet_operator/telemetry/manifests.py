"""Figures that are read out of manifests at the moment of a scrape: of jobs, and of zoos.

An object that is gone leaves no series, because nothing is kept between two scrapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kubedet_trainer.contract.metrics import Definition

WHOSE = ("namespace", "name")
"""The first labels of a figure that belongs to one object. Figures without them are summed over all."""

Manifest = Mapping[str, Any]
Figure = tuple[str, tuple[str, ...], float]
"""Key in the table, values of the labels after `WHOSE`, value."""
Reader = Callable[[Manifest], Iterable[Figure]]

_FAMILIES: Mapping[str, Callable[..., CounterMetricFamily | GaugeMetricFamily]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
}


class ManifestCollector(Collector):
    """Reads the figures of every object of one kind."""

    def __init__(
        self,
        table: Mapping[str, Definition],
        manifests: Callable[[], Iterable[Manifest]],
        readers: Sequence[Reader],
        *,
        unreadable: Callable[[], None],
    ) -> None:
        """Others write statuses, too, so a reader may find anything in them.

        Args:
            table: the metrics.
            manifests: the objects of now.
            readers: what reads figures out of one. One that raises costs an object its own figures, and no
                others.
            unreadable: called whenever a reader raises.
        """
        self._table = table
        self._manifests = manifests
        self._readers = readers
        self._unreadable = unreadable

    def collect(self) -> Iterator[Metric]:
        """The families, filled with the objects of now."""
        values: dict[tuple[str, tuple[str, ...]], float] = {
            (key, (label,)): 0.0 for key, definition in self._table.items() for label in definition.known
        }
        for manifest in self._manifests():
            whose = tuple(str(manifest["metadata"][label]) for label in WHOSE)
            for key, labels, value in self._read(manifest):
                is_own = self._table[key].labels[: len(WHOSE)] == WHOSE
                place = (key, (*whose, *labels) if is_own else labels)
                values[place] = value if is_own else values.get(place, 0.0) + value
        families = {
            key: _FAMILIES[definition.kind](definition.name, definition.help, labels=definition.labels)
            for key, definition in self._table.items()
        }
        for (key, labels), value in values.items():
            families[key].add_metric(labels, value)
        yield from families.values()

    def _read(self, manifest: Manifest) -> Iterator[Figure]:
        for read in self._readers:
            try:
                figures = [(key, labels, float(value)) for key, labels, value in read(manifest)]
            except Exception:
                self._unreadable()
                continue
            yield from figures
