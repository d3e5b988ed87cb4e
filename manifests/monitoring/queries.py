"""PromQL selectors by the keys of the metric tables: a metric that is renamed or gone breaks the build.

All queries rely on these labels and no others. Series of a job carry ``namespace`` and ``name``: those of the
operator by themselves, those of workers by the scrape (`README.md`), which adds ``pod`` to both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from kubedet_operator.telemetry import metrics
from kubedet_trainer.contract.metrics import Definition
from kubedet_trainer.telemetry import metrics as trainer_metrics

_NAME = re.compile(r"\b(?:kubedet|process)_[a-z0-9_]+\b")

PROCESS_METRICS = ("process_resident_memory_bytes", "process_cpu_seconds_total")
"""Of prometheus_client's own about the operator's process, those that are looked at."""


TABLES: Mapping[str, Mapping[str, Definition]] = {
    "operator": metrics.TABLE,
    "job": metrics.JOB_TABLE,
    "trainer": {**trainer_metrics.TABLE, **trainer_metrics.LAUNCHER_TABLE},
}
"""What is exposed: of the operator, of jobs by the operator, and of workers; the last by rank or launcher."""


def exposed_metrics() -> list[Definition]:
    """Every metric of both halves, in the tables' order."""
    return [definition for table in TABLES.values() for definition in table.values()]


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Selectors that are narrowed to some jobs; the operator's own series belong to no job."""

    jobs: tuple[str, ...] = ()

    def operator(self, key: str, *matchers: str, part: str = "") -> str:
        """Series of the operator itself, by the key in its `TABLE`."""
        return _select(f"{TABLES['operator'][key].name}{part}", matchers)

    def job(self, key: str, *matchers: str) -> str:
        """Series that the operator tells of a job, by the key in its `JOB_TABLE`."""
        return _select(TABLES["job"][key].name, (*self.jobs, *matchers))

    def trainer(self, key: str, *matchers: str, part: str = "") -> str:
        """Series of workers, by the key in the trainer's `TABLE` or `LAUNCHER_TABLE`."""
        return _select(f"{TABLES['trainer'][key].name}{part}", (*self.jobs, *matchers))


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
