"""The page of all metrics: what each means, how it is labelled, and which picture or alert looks at it."""

from __future__ import annotations

from collections.abc import Iterable

from kubedet_trainer.contract.metrics import Definition
from monitoring.alerts import ALERTS
from monitoring.fleet import FLEET
from monitoring.job import JOB
from monitoring.panels import Dashboard
from monitoring.queries import TABLES, find_names

_INTRODUCTION = """\
# Metrics

Written by `make generate` out of the tables in the code; do not edit. Every metric is in base units, a
counter ends in `_total`, and histograms have the usual `_bucket`, `_sum` and `_count`. The scrape adds
`namespace` and `pod`, and to the series of workers the `name` of their job.
"""

_SECTIONS = {
    "operator": "The operator\n\nOn port 8080 of each replica.",
    "job": "Jobs, as the operator tells them\n\nOn the same port, by the replica that acts; read out of the "
    "jobs' manifests at every scrape, so a job that is deleted leaves no series.",
    "trainer": "Workers\n\nOn the port `spec.metrics.port` (9091) of each worker pod, for all of its ranks.",
}


def build_reference() -> str:
    """The page, in Markdown."""
    sections = [f"## {heading}\n\n{_table(TABLES[source].values())}" for source, heading in _SECTIONS.items()]
    return "\n".join([_INTRODUCTION, *sections])


def _table(metrics: Iterable[Definition]) -> str:
    lines = ["| metric | kind | labels | meaning | looked at by |", "| --- | --- | --- | --- | --- |"]
    for metric in metrics:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(
            f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} | {', '.join(find_uses(metric))} |"
        )
    return "\n".join(lines) + "\n"


def find_uses(metric: Definition) -> list[str]:
    """The dashboards and alerts whose queries name it."""
    names = set(metric.series())
    uses = [
        dashboard.title.rpartition("/ ")[2]
        for dashboard in (FLEET, JOB)
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
