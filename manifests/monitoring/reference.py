"""The page of all metrics: meaning, labels, and the dashboards and alerts that use each."""

from __future__ import annotations

from collections.abc import Iterable

from kubedet_trainer.contract.metrics import Definition
from monitoring.alerts import ALERTS
from monitoring.fleet import FLEET
from monitoring.job import JOB
from monitoring.panels import Dashboard
from monitoring.queries import DCGM_METRICS, TABLES, find_names
from monitoring.zoo import ZOO

_INTRODUCTION = """\
# Metrics

Generated from the tables in the code. Edit those, then run `make generate`. All metrics are in base units.
Names of counters end in `_total`; histograms have the usual `_bucket`, `_sum` and `_count`. The scrape adds
the labels `namespace` and `pod`, and for workers the `name` of their job.
"""

_SECTIONS = {
    "operator": "The operator\n\nOn port 8080 of each replica.",
    "job": "Jobs\n\nOn the same port, but only of the leader. It reads them from the jobs' manifests at "
    "every scrape, so a deleted job leaves no series.",
    "zoo": "Zoos\n\nOn the port of the operator's leader, too. It reads them from the zoos' manifests at "
    "every scrape. A zoo of 95 rows has about 500 series.",
    "trainer": "Workers\n\nOn the port `spec.metrics.port` (9091) of each worker pod, for all of its ranks.",
}


_FOREIGN = """\
## GPUs

NVIDIA's [DCGM exporter](https://github.com/NVIDIA/dcgm-exporter) tells these, if it is installed. The
dashboards join them to jobs by the pod ([how](../administrators/monitoring.md#gpus)).

| metric | meaning |
| --- | --- |
"""


def build_reference() -> str:
    """The page, in Markdown."""
    sections = [f"## {heading}\n\n{_table(TABLES[source].values())}" for source, heading in _SECTIONS.items()]
    sections.append(_FOREIGN + "\n".join(f"| `{name}` | {text} |" for name, text in DCGM_METRICS.items()))
    return "\n".join([_INTRODUCTION, *sections]) + "\n"


def _table(metrics: Iterable[Definition]) -> str:
    lines = ["| metric | type | labels | meaning | used by |", "| --- | --- | --- | --- | --- |"]
    for metric in metrics:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(
            f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} | {', '.join(find_uses(metric))} |"
        )
    return "\n".join(lines) + "\n"


def find_uses(metric: Definition) -> list[str]:
    """The dashboards and alerts whose queries name the metric."""
    names = set(metric.series())
    uses = [
        dashboard.title.rpartition("/ ")[2]
        for dashboard in (FLEET, JOB, ZOO)
        if names & {name for expr in _expressions(dashboard) for name in find_names(expr)}
    ]
    uses += [alert.name for alert in ALERTS if names & find_names(alert.expr)]
    return list(dict.fromkeys(uses))


def _expressions(dashboard: Dashboard) -> list[str]:
    panels = [target.expr for panel in dashboard.panels() for target in panel.targets]
    return [
        *panels,
        *(annotation.expr for annotation in dashboard.annotations),
        *(variable.query for variable in dashboard.variables),
    ]
