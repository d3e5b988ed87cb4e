"""Asks a Prometheus every query of every panel and rule, and tells which get no data, and whether rightly.

A query without an answer is right only where one of its selectors matched nothing, now or for a curve in the
whole time range, and the metric is one that there need not be: `MAY_BE_EMPTY` says why.
The panels in `MAY_JOIN_NOTHING` may be empty although each of their selectors matches something.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from monitoring.panels import flatten
from monitoring.prometheus import Prometheus, View
from monitoring.queries import ALERTS, EVERY_JOB

series = EVERY_JOB
MAY_BE_EMPTY: Mapping[str, str] = {
    series.job("status_phase"): "no job was in this phase",
    series.job("status_reason"): "no job has a reason to tell",
    series.job("excluded_nodes"): "no job avoids a node",
    series.job("suspect_nodes"): "no node has broken a worker within an hour",
    series.job("straggler"): "no rank is a straggler",
    series.job("published"): "no job with a published row has ended",
    series.zoo("status_phase"): "there is no zoo, or none in this phase",
    series.zoo("difference"): "no row of a zoo can be compared",
    series.zoo("row"): "no zoo has rows",
    series.zoo("page_written"): "no row of a zoo has ended, or its page is written",
    "DCGM_": "NVIDIA's DCGM exporter is not installed, or finds nothing of this",
    ALERTS: "no alert fires",
    series.job("stage"): "no job was in this stage",
    series.job("remaining"): "no job trains, or not for long enough for an estimate",
    series.job("last_failure"): "no job has failed this way",
    series.job("checkpoint_interval"): "no job sets an interval in seconds",
    series.job("checkpoint"): "no job has a checkpoint yet",
    series.job("result"): "no job has ended",
    series.operator("recovery"): "no job has recovered from a failure",
    series.operator("reconcile_errors"): "no reconciliation has failed",
    series.trainer("gpu_memory_bytes"): "the workers have no GPUs",
    series.trainer("worker_memory_bytes"): "the workers have no memory limit, or no control group",
    series.trainer("reference"): "nothing is published of the recipe",
    series.trainer("evaluation"): "nothing has been evaluated yet",
    series.trainer("checkpoint_restore_seconds"): "no job has resumed from a checkpoint",
    series.trainer("recovery_seconds"): "no rank was lost",
}
"""Metrics that need not have a series, and what that means."""
MAY_BE_GONE: Mapping[str, str] = {series.trainer("build_info"): "no worker runs"}
"""The same for queries that ask about now alone."""
MAY_MATCH_NOTHING: Mapping[str, str] = {
    'zoo!=""': "no job belongs to a zoo",
    'metric=~"maskAP(': "no job has masks",
}
"""The same for matchers, by their beginning."""
MAY_JOIN_NOTHING: Mapping[str, str] = {
    "zoo: Jobs that have not ended": "no job of a zoo runs, or none has a reason to tell",
    "zoo: Firing alerts": "no alert of a zoo fires",
    "fleet: Errors of GPUs": "no GPU has an error",
    "job: Errors of GPUs": "no GPU has an error",
}
"""Panels, and what their being empty means."""

_SELECTOR = re.compile(r"\b((?:kubedet|process)_[a-z0-9_]+|DCGM_[A-Z0-9_]+|ALERTS)(\{[^}]*\})?")
Verdict = Literal["data", "rightly empty", "no data"]


@dataclass(frozen=True, kw_only=True)
class Query:
    """One query and where it stands."""

    where: str
    expr: str
    kind: Literal["range", "instant", "rule"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What came of one query."""

    query: Query
    verdict: Verdict
    series: int = 0
    reason: str = ""


def read_queries(files: Path) -> Iterator[Query]:
    """Every query of the generated files below the chart's ``files``."""
    for path in sorted(files.glob("dashboards/*.json")):
        dashboard = json.loads(path.read_text())
        for panel in flatten(dashboard):
            for target in panel["targets"]:
                kind: Literal["range", "instant"] = "instant" if target["instant"] else "range"
                yield Query(where=f"{path.stem}: {panel['title']}", expr=target["expr"], kind=kind)
        for annotation in dashboard["annotations"]["list"]:
            yield Query(
                where=f"{path.stem}: annotation {annotation['name']}", expr=annotation["expr"], kind="range"
            )
    for rule in _rules(files):
        yield Query(where=f"rule {rule['alert']}", expr=rule["expr"], kind="rule")


def check_queries(prometheus: Prometheus, view: View, *, files: Path) -> list[Finding]:
    """The verdict on every query.

    Raises:
        ValueError: Prometheus refuses one.
    """
    return [_check(prometheus, view, query) for query in read_queries(files)]


def _check(prometheus: Prometheus, view: View, query: Query) -> Finding:
    ask = prometheus.query_range if query.kind == "range" else prometheus.query
    series = len(ask(query.expr, view))
    if series and query.kind != "rule":
        return Finding(query=query, verdict="data", series=series)
    missing = [
        (name, selector)
        for name, selector in find_selectors(query.expr)
        if not prometheus.has_series(selector, view, now=query.kind == "instant")
    ]
    if not missing and query.where in MAY_JOIN_NOTHING:
        return Finding(query=query, verdict="rightly empty", reason=MAY_JOIN_NOTHING[query.where])
    if not missing:  # a rule that is given all that it asks for is right not to fire
        verdict: Verdict = "data" if query.kind == "rule" else "no data"
        return Finding(query=query, verdict=verdict, series=series)
    causes = {selector: _excuse(name, selector, query) for name, selector in missing}
    if unexcused := [selector for selector, why in causes.items() if not why]:
        reason = f"no series of {', '.join(unexcused)}"
        return Finding(query=query, verdict="no data", series=series, reason=reason)
    reason = "; ".join(dict.fromkeys(causes.values()))
    return Finding(query=query, verdict="rightly empty", series=series, reason=reason)


def find_selectors(expression: str) -> list[tuple[str, str]]:
    """Name and whole text of each selector of a query."""
    return list(dict.fromkeys((match[1], match[0]) for match in _SELECTOR.finditer(expression)))


def _excuse(name: str, selector: str, query: Query) -> str:
    for matcher, why in MAY_MATCH_NOTHING.items():
        if matcher in selector:
            return why
    known = {**MAY_BE_EMPTY, **MAY_BE_GONE} if query.kind == "instant" else MAY_BE_EMPTY
    return next((why for metric, why in known.items() if name.startswith(metric)), "")


def _rules(files: Path) -> list[dict[str, Any]]:
    document = yaml.safe_load((files / "rules.yaml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]
