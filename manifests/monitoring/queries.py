"""PromQL selectors by the keys of the metric tables: a metric that is renamed or gone breaks the build.

All queries rely on these labels and no others. Series of a job carry ``namespace`` and ``name``: those of the
operator by themselves, those of workers by the scrape (`README.md`), which adds ``pod`` to both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from kubedet_operator.telemetry import job_metrics, metrics, zoo_metrics
from kubedet_trainer.contract.metrics import Definition
from kubedet_trainer.telemetry import metrics as trainer_metrics

_NAME = re.compile(r"\b(?:(?:kubedet|process)_[a-z0-9_]+|DCGM_[A-Z0-9_]+|ALERTS)\b")

PROCESS_METRICS = ("process_resident_memory_bytes", "process_cpu_seconds_total")
"""Of prometheus_client's own about the operator's process, those that are looked at."""


TABLES: Mapping[str, Mapping[str, Definition]] = {
    "operator": metrics.TABLE,
    "job": job_metrics.JOB_TABLE,
    "zoo": zoo_metrics.ZOO_TABLE,
    "trainer": {**trainer_metrics.TABLE, **trainer_metrics.LAUNCHER_TABLE},
}
"""What is exposed: of the operator; of jobs and zoos by the operator; of workers by rank or launcher."""


def exposed_metrics() -> list[Definition]:
    """Every metric of both halves, in the tables' order."""
    return [definition for table in TABLES.values() for definition in table.values()]


DCGM_METRICS: Mapping[str, str] = {
    "DCGM_FI_DEV_GPU_UTIL": "percent of the time in which a kernel ran",
    "DCGM_FI_DEV_FB_USED": "MiB of memory in use",
    "DCGM_FI_DEV_FB_FREE": "MiB of free memory",
    "DCGM_FI_DEV_POWER_USAGE": "W",
    "DCGM_FI_DEV_GPU_TEMP": "degrees Celsius",
    "DCGM_FI_DEV_XID_ERRORS": "number of the newest Xid error, 0 for none",
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": "rows of memory that ECC has replaced",
    "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL": "1000 KiB/s over NVLink, both directions. A gauge, although the "
    "exporter calls it a counter",
}
"""Metrics of NVIDIA's DCGM exporter, of its default set, with what they mean."""
ALERTS = "ALERTS"
"""What Prometheus itself tells of its alerts."""


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Selectors that are narrowed to some jobs or zoos; the operator's own series belong to none."""

    jobs: tuple[str, ...] = ()
    zoos: tuple[str, ...] = ()

    def operator(self, key: str, *matchers: str, part: str = "") -> str:
        """Series of the operator itself, by the key in its `TABLE`."""
        return _select(f"{TABLES['operator'][key].name}{part}", matchers)

    def job(self, key: str, *matchers: str) -> str:
        """Series that the operator tells of a job, by the key in its `JOB_TABLE`."""
        return _select(TABLES["job"][key].name, (*self.jobs, *matchers))

    def zoo(self, key: str, *matchers: str) -> str:
        """Series that the operator tells of a zoo, by the key in its `ZOO_TABLE`."""
        return _select(TABLES["zoo"][key].name, (*self.zoos, *matchers))

    def trainer(self, key: str, *matchers: str, part: str = "") -> str:
        """Series of workers, by the key in the trainer's `TABLE` or `LAUNCHER_TABLE`."""
        return _select(f"{TABLES['trainer'][key].name}{part}", (*self.jobs, *matchers))


EVERY_JOB = Scope()
"""For rules."""
OF_NAMESPACE = 'namespace=~"$namespace"'
CHOSEN_JOBS = Scope(jobs=(OF_NAMESPACE, 'name=~"$job"'))
"""For dashboards: the variables may take one value or several."""
CHOSEN_ZOOS = Scope(jobs=(OF_NAMESPACE,), zoos=(OF_NAMESPACE, 'name=~"$zoo"'))
"""For the dashboard of zoos. Their jobs are told by the label ``zoo`` of `kubedet_job_info`."""


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
