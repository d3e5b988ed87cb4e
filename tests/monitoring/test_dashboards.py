"""The dashboards by the rules of Grafana's dashboard linter, and the metrics that are looked at."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from monitoring import build, check, reference
from monitoring.queries import PROCESS_METRICS, TABLES, exposed_metrics, find_names

FILES = build.ROOT / build.CHART_FILES
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in sorted(FILES.glob("dashboards/*.json"))}
UNITS = {"short", "none", "s", "h", "percent", "percentunit", "bytes", "ops", "reqps", "sci"}
"""Those of Grafana's units that are in use."""

Panel = dict[str, Any]


def _panels() -> Iterator[Any]:
    for name, dashboard in DASHBOARDS.items():
        for panel in dashboard["panels"]:
            if panel["type"] != "row":
                yield pytest.param(panel, id=f"{name}-{panel['title']}")


each_panel = pytest.mark.parametrize("panel", list(_panels()))
each_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=list(DASHBOARDS))


def test_generated_files_are_current() -> None:
    assert build.find_outdated(build.ROOT) == []


def test_there_are_the_two_dashboards() -> None:
    assert list(DASHBOARDS) == ["fleet", "job"]
    assert len({dashboard["uid"] for dashboard in DASHBOARDS.values()}) == 2


@each_dashboard
def test_variables_choose_datasource_namespace_and_job(dashboard: dict[str, Any]) -> None:
    source, namespace, job = dashboard["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    assert source["label"] == "Data source"
    for variable, name in ((namespace, "namespace"), (job, "job")):
        assert (variable["name"], variable["type"]) == (name, "query")
        assert variable["datasource"]["uid"] == "${datasource}"
        assert re.fullmatch(r"label_values\(\w+({.*})?, \w+\)", variable["query"])
        assert variable["refresh"] == 2  # reloads on a change of the time range
    assert dashboard["editable"] is False


@each_dashboard
def test_panels_have_ids_of_their_own_and_do_not_overlap(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


@each_panel
def test_a_panel_has_title_description_unit_and_the_chosen_datasource(panel: Panel) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    for override in panel["fieldConfig"]["overrides"]:
        assert {change["value"] for change in override["properties"] if change["id"] == "unit"} <= UNITS
    assert panel["targets"]
    assert panel["datasource"]["uid"] == "${datasource}"


@each_panel
def test_a_target_rates_its_counters_over_the_interval_of_the_panel(panel: Panel) -> None:
    counters = {metric.name for metric in exposed_metrics() if metric.kind == "counter"}
    for target in panel["targets"]:
        expr = target["expr"]
        assert target["datasource"]["uid"] == "${datasource}"
        for interval in re.findall(r"\bi?rate\([^\[]*\[([^\]]*)\]", expr):
            assert interval == "$__rate_interval"
        for name in find_names(expr):
            if name in counters or name.endswith(("_bucket", "_count", "_sum")):
                assert len(re.findall(rf"\b(?:rate|increase)\({name}\b", expr)) == len(
                    re.findall(rf"\b{name}\b", expr)
                ), expr
        if "histogram_quantile" in expr:
            assert re.search(r"histogram_quantile\([\d.]+, sum by \(le\b", expr)


@each_panel
def test_a_target_asks_for_the_chosen_jobs_and_for_metrics_that_exist(panel: Panel) -> None:
    known = {name for metric in exposed_metrics() for name in metric.series()}
    of_operator = {name for metric in TABLES["operator"].values() for name in metric.series()}
    of_jobs = known - of_operator - {TABLES["job"]["jobs"].name}
    for target in panel["targets"]:
        expr = target["expr"]
        assert find_names(expr) <= known | set(PROCESS_METRICS)
        for name, selector in check.find_selectors(expr):
            if name in of_jobs:
                assert 'namespace=~"$namespace",name=~"$job"' in selector


def test_every_metric_is_documented_with_what_looks_at_it() -> None:
    page = (build.ROOT / "docs" / "reference" / "metrics.md").read_text()
    metrics = exposed_metrics()
    assert len(metrics) > 40
    for metric in metrics:
        assert f"| `{metric.name}` | {metric.kind} |" in page
    unused = [metric.name for metric in metrics if not reference.find_uses(metric)]
    assert unused == []


def test_labels_that_queries_name_are_those_of_their_metrics() -> None:
    labels = {name: set(metric.labels) for metric in exposed_metrics() for name in metric.series()}
    from_the_scrape = {"namespace", "name", "pod", "le"}
    for query in check.read_queries(FILES):
        for name, selector in check.find_selectors(query.expr):
            asked = set(re.findall(r"(\w+)(?:=|!=)~?\"", selector))
            assert asked <= labels.get(name, set()) | from_the_scrape, query.expr
