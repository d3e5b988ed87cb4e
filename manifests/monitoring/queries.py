"""PromQL selectors by the keys of the metric tables: a metric that is renamed or gone breaks the build.

All queries rely on these labels and no others. Series of a job carry ``namespace`` and ``name``: those of the
operator by themselves, those of workers by the scrape (`README.md`), which adds ``pod`` to both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kubedet_operator.telemetry.metrics import JOB_TABLE, TABLE
from kubedet_trainer.telemetry.metrics import DEFINITIONS, LAUNCHER_DEFINITIONS, full_name

_HISTOGRAM_PARTS = ("", "_bucket", "_sum", "_count")
_NAME = re.compile(r"\b(?:kubedet|process)_[a-z0-9_]+\b")

PROCESS_METRICS = ("process_resident_memory_bytes", "process_cpu_seconds_total")
"""Of prometheus_client's own about the operator's process, those that are looked at."""


@dataclass(frozen=True, kw_only=True)
class Exposed:
    """A metric as it is exposed, from whichever table."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...]
    source: str
    """operator, job or trainer."""

    def parts(self) -> tuple[str, ...]:
        """The names of its series."""
        return tuple(
            f"{self.name}{part}" for part in (_HISTOGRAM_PARTS if self.kind == "histogram" else ("",))
        )


def exposed_metrics() -> Iterator[Exposed]:
    """Every metric of both halves, in the tables' order."""
    for source, table in (("operator", TABLE), ("job", JOB_TABLE)):
        for series in table.values():
            yield Exposed(
                name=series.name, kind=series.kind, help=series.help, labels=series.labels, source=source
            )
    for name, definition in {**DEFINITIONS, **LAUNCHER_DEFINITIONS}.items():
        yield Exposed(
            name=full_name(name),
            kind=definition.kind,
            help=definition.help,
            labels=definition.labels,
            source="trainer",
        )


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Selectors that are narrowed to some jobs; the operator's own series belong to no job."""

    jobs: tuple[str, ...] = ()

    def operator(self, key: str, *matchers: str, part: str = "") -> str:
        """Series of the operator itself, by the key in `TABLE`."""
        return _select(f"{TABLE[key].name}{part}", matchers)

    def job(self, key: str, *matchers: str) -> str:
        """Series that the operator tells of a job, by the key in `JOB_TABLE`."""
        return _select(JOB_TABLE[key].name, (*self.jobs, *matchers))

    def trainer(self, key: str, *matchers: str, part: str = "") -> str:
        """Series of workers, by the key in `DEFINITIONS` or `LAUNCHER_DEFINITIONS`."""
        return _select(f"{full_name(key)}{part}", (*self.jobs, *matchers))


EVERY_JOB = Scope()
"""For rules."""
CHOSEN_JOBS = Scope(jobs=('namespace=~"$namespace"', 'name=~"$job"'))
"""For dashboards: the variables may take one value or several."""


def find_names(expression: str) -> set[str]:
    """The names of metrics in a query."""
    return set(_NAME.findall(expression))


def fill(expression: str, variables: Mapping[str, str]) -> str:
    """`expression` with Grafana's variables replaced, the longest name first."""
    for name in sorted(variables, key=len, reverse=True):
        expression = expression.replace(f"${name}", variables[name])
    return expression


def _select(name: str, matchers: tuple[str, ...]) -> str:
    return f"{name}{{{','.join(matchers)}}}" if matchers else name
