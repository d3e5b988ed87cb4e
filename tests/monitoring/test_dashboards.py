"""The dashboards by the rules of Grafana's dashboard linter, and the metrics that are looked at."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from monitoring import build, check, reference
from monitoring.panels import flatten
from monitoring.queries import ALERTS, DCGM_METRICS, PROCESS_METRICS, TABLES, exposed_metrics, find_names

FILES = build.ROOT / build.CHART_FILES
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in sorted(FILES.glob("dashboards/*.json"))}
UNITS = {"short", "none", "s", "h", "percent", "percentunit", "bytes", "Bps", "ops", "reqps", "sci"}
UNITS |= {"watt", "celsius", "suffix: cores", "suffix: images/s", "suffix: it/s"}
"""Those of Grafana's units that are in use."""
FOREIGN = {*PROCESS_METRICS, *DCGM_METRICS, ALERTS}
"""Metrics of others."""
TOTALS = {TABLES["job"]["gpu_seconds"].name, TABLES["job"]["time"].name}
"""Counters that the operator reads out of a status: they are the totals since the job's creation, and never
start again, so that a table or a number may show them as they are."""

Panel = dict[str, Any]


def _panels() -> Iterator[Any]:
    for name, dashboard in DASHBOARDS.items():
        for panel in flatten(dashboard):
            yield pytest.param(panel, id=f"{name}-{panel['title']}")


each_panel = pytest.mark.parametrize("panel", list(_panels()))
each_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=list(DASHBOARDS))


def test_generated_files_are_current() -> None:
    assert build.find_outdated(build.ROOT) == []


def test_there_are_the_three_dashboards() -> None:
    assert list(DASHBOARDS) == ["fleet", "job", "zoo"]
    assert len({dashboard["uid"] for dashboard in DASHBOARDS.values()}) == 3


@pytest.mark.parametrize(("name", "object_name"), [("fleet", "job"), ("job", "job"), ("zoo", "zoo")])
def test_variables_choose_datasource_namespace_and_job_or_zoo(name: str, object_name: str) -> None:
    dashboard = DASHBOARDS[name]
    source, namespace, chosen, *hidden = dashboard["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    assert source["label"] == "Data source"
    for variable, called in ((namespace, "namespace"), (chosen, object_name)):
        assert (variable["name"], variable["type"], variable["hide"]) == (called, "query", 0)
        assert variable["datasource"]["uid"] == "${datasource}"
        assert re.fullmatch(r"label_values\(\w+({.*})?, \w+\)", variable["query"])
        assert variable["refresh"] == 2  # reloads on a change of the time range
    assert {variable["hide"] for variable in hidden} <= {2}
    assert dashboard["editable"] is False


@pytest.mark.parametrize("name", ["fleet", "job"])
def test_the_row_of_gpus_asks_nothing_before_it_is_opened_and_says_how_many_there_are(name: str) -> None:
    (row,) = [panel for panel in DASHBOARDS[name]["panels"] if "DCGM" in panel["title"]]
    assert row["collapsed"] is True
    assert len(row["panels"]) > 5
    assert row["title"].startswith("GPUs: $gpus ")
    (count,) = [found for found in DASHBOARDS[name]["templating"]["list"] if found["name"] == "gpus"]
    # What Grafana makes of a sample without labels.
    assert re.search(count["regex"].strip("/"), "{} 16 1795932000000")[1] == "16"  # type: ignore[index]
    outside = [panel for panel in DASHBOARDS[name]["panels"] if panel is not row]
    told = {panel["title"] for panel in outside if "DCGM" in str(panel.get("targets"))}
    assert told <= {"GPUs free"}


@each_dashboard
def test_panels_have_ids_of_their_own_and_do_not_overlap(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    opened = [below for panel in panels for below in (panel, *panel.get("panels", ()))]
    assert len({panel["id"] for panel in opened}) == len(opened)
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
            if name in TOTALS and panel["type"] in ("table", "stat"):
                continue
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
    over_all = {TABLES["job"][key].name for key in ("jobs", "excluded_nodes", "suspect_nodes")}
    of_zoos = {metric.name for metric in TABLES["zoo"].values()}
    of_jobs = known - of_operator - over_all - of_zoos
    for target in panel["targets"]:
        expr = target["expr"]
        assert find_names(expr) <= known | FOREIGN
        for name, selector in check.find_selectors(expr):
            if name in of_zoos:
                assert 'namespace=~"$namespace",name=~"$zoo"' in selector
            elif name in of_jobs and 'zoo=~"$zoo"' in expr:  # jobs of a zoo, by its label of the job's info
                assert 'namespace=~"$namespace"' in selector
            elif name in of_jobs:
                assert 'namespace=~"$namespace",name=~"$job"' in selector


@each_panel
def test_what_is_counted_is_shown_in_whole_numbers(panel: Panel) -> None:
    """Prometheus extrapolates increases, and Grafana writes ticks such as 1.25 jobs."""
    expressions = [target["expr"] for target in panel["targets"]]
    shares = panel["fieldConfig"]["defaults"]["unit"] == "percentunit"
    assert shares or not [expr for expr in expressions if re.match(r"(sum[ \w()]*\()?increase\(", expr)]
    counts = all(re.match(r"(round|count)\(", expr) for expr in expressions)
    if counts and panel["options"].get("textMode") != "name":
        assert panel["fieldConfig"]["defaults"].get("decimals") == 0


@each_panel
def test_a_table_has_a_column_for_each_figure_and_none_of_ones(panel: Panel) -> None:
    if panel["type"] != "table":
        return
    merge, organize = panel["transformations"]
    assert merge["id"] == "merge"
    hidden, names = organize["options"]["excludeByName"], organize["options"]["renameByName"]
    values = [f"Value #{target['refId']}" for target in panel["targets"]]
    values = ["Value"] if len(values) == 1 else values
    assert sorted([*(name for name in hidden if name != "Time"), *names]) == sorted(values)
    assert len(set(names.values())) == len(names), "columns of the same name"


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
    labels |= {ALERTS: {"alertstate", "alertname"}} | {key: {"exported_pod"} for key in DCGM_METRICS}
    for query in check.read_queries(FILES):
        for name, selector in check.find_selectors(query.expr):
            asked = set(re.findall(r"(\w+)(?:=|!=)~?\"", selector))
            assert asked <= labels.get(name, set()) | from_the_scrape, query.expr
