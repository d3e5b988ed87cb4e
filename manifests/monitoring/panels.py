"""Dashboards as values, and the classic JSON that Grafana imports."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

_COLUMNS = 24
_LETTERS = "ABCDEFGHIJKLMNOP"
_SCHEMA_VERSION = 39
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

Kind = Literal["timeseries", "stat", "bargauge", "table", "state-timeline"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """One query and how its series are called."""

    expr: str
    legend: str = "__auto"
    instant: bool = False
    """The newest value only, instead of the whole time range."""
    unit: str | None = None
    """Where it differs from the panel's: of a column of a table, of a curve with an axis of its own."""
    decimals: int | None = None
    """The same of digits after the point."""
    is_total: bool = False
    """Of a stacked panel: a line on top of the stack, not a part of it."""
    adds_labels: bool = False
    """Of a table: only its labels are columns, because its value is always 1."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture of a dashboard."""

    title: str
    description: str
    """What it shows, and what a bad picture looks like."""
    unit: str
    """Of Grafana's list: s, percentunit, bytes and so on."""
    targets: tuple[Target, ...]
    kind: Kind = "timeseries"
    width: int = 8
    height: int = 8
    stacked: bool = False
    bars: bool = False
    """Whether a bar stands for what happened in each interval, instead of a line."""
    interval: str | None = None
    """Least distance of two points, and of the bars: ``5m``."""
    decimals: int | None = None
    """Digits after the point; 0 for what is counted."""
    bounds: tuple[float | None, float | None] = (0, None)
    """Least and greatest value of the axis."""
    colours: Mapping[str, str] = field(default_factory=dict)
    """Of series that mean well or ill, by their name."""
    shows_name: bool = False
    """Of a stat: whether it shows the name of its series instead of the value, which is 1."""
    link: str | None = None
    """Address that a click leads to."""
    words: Mapping[str, str] = field(default_factory=dict)
    """What the labels of a table say in place of these values."""
    columns: tuple[str, ...] = ()
    """Of a table: labels and legends of its targets, from left to right. Others come last."""


@dataclass(frozen=True, kw_only=True)
class Variable:
    """A choice at the top of a dashboard."""

    name: str
    label: str
    query: str
    """``label_values(...)``"""
    several: bool = False
    regex: str = ""
    """What to take out of an answer of ``query_result(...)``."""
    hidden: bool = False
    """Whether it is there for headings only."""


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """Marks on the time axis; the value of the query is the moment, in milliseconds."""

    name: str
    expr: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]
    collapsed: bool = False
    """Whether only the heading shows at first. Grafana asks no query before somebody opens it."""


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """One page of panels, in rows with a heading."""

    uid: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]
    annotations: tuple[Annotation, ...] = ()
    range: str = "now-6h"
    tags: tuple[str, ...] = field(default=("kubedet",))

    def panels(self) -> list[Panel]:
        """All panels, in order."""
        return [panel for row in self.rows for panel in row.panels]


def build_dashboard(dashboard: Dashboard) -> dict[str, Any]:
    """The JSON of a dashboard."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": list(dashboard.tags),
        "schemaVersion": _SCHEMA_VERSION,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "1m",
        "time": {"from": dashboard.range, "to": "now"},
        "timezone": "browser",
        "links": [
            {
                "title": "kubedet",
                "type": "dashboards",
                "tags": ["kubedet"],
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "annotations": {"list": [_build_annotation(found) for found in dashboard.annotations]},
        "templating": {"list": [_DATASOURCE_VARIABLE, *map(_build_variable, dashboard.variables)]},
        "panels": _place(dashboard.rows),
    }


_DATASOURCE_VARIABLE = {
    "name": "datasource",
    "label": "Data source",
    "type": "datasource",
    "query": "prometheus",
    "current": {},
    "refresh": 1,
}


def flatten(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """All panels in the JSON of a dashboard, also those of collapsed rows, without the rows."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


def _place(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Panels from left to right, as many in a line as there is room for."""
    placed: list[dict[str, Any]] = []
    top, number = 0, itertools.count(1)
    for row in rows:
        heading = {"type": "row", "title": row.title, "collapsed": row.collapsed, "id": next(number)}
        heading["gridPos"] = _grid(0, top, _COLUMNS, 1)
        below, end = _place_panels(row.panels, top=top + 1, number=number)
        placed.append(heading | {"panels": below if row.collapsed else []})
        placed += [] if row.collapsed else below
        top = top + 1 if row.collapsed else end
    return placed


def _place_panels(
    panels: Sequence[Panel], *, top: int, number: Iterator[int]
) -> tuple[list[dict[str, Any]], int]:
    """The panels of a row, and the line below them."""
    placed = []
    left = height = 0
    for panel in panels:
        if left + panel.width > _COLUMNS:
            top, left, height = top + height, 0, 0
        place = {"id": next(number), "gridPos": _grid(left, top, panel.width, panel.height)}
        placed.append(_build_panel(panel) | place)
        left, height = left + panel.width, max(height, panel.height)
    return placed, top + height


def _grid(left: int, top: int, width: int, height: int) -> dict[str, int]:
    return {"x": left, "y": top, "w": width, "h": height}


def _build_panel(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "custom": _CUSTOM.get(panel.kind, {})}
    if panel.kind == "timeseries":
        defaults["custom"] = _build_curve(panel)
    if panel.decimals is not None:
        defaults["decimals"] = panel.decimals
    if panel.words:
        options = {
            value: {"text": text, "index": index} for index, (value, text) in enumerate(panel.words.items())
        }
        defaults["mappings"] = [{"type": "value", "options": options}]
    for name, bound in zip(("min", "max"), panel.bounds, strict=True):
        if bound is not None:
            defaults[name] = bound
    if panel.link:
        defaults["links"] = [{"title": "Open", "url": panel.link}]
    built = {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": _build_overrides(panel)},
        "options": _build_options(panel),
        "targets": [
            _build_target(target, letter, panel.kind)
            for target, letter in zip(panel.targets, _LETTERS, strict=False)
        ],
    }
    if panel.interval:
        built["interval"] = panel.interval
    if panel.kind == "table":
        built["transformations"] = _build_transformations(panel)
    return built


_CUSTOM: dict[Kind, dict[str, Any]] = {"state-timeline": {"fillOpacity": 70, "lineWidth": 0}}


def _build_curve(panel: Panel) -> dict[str, Any]:
    return {
        "drawStyle": "bars" if panel.bars else "line",
        "lineWidth": 1,
        "fillOpacity": 60 if panel.stacked or panel.bars else 5,
        "showPoints": "never",
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
    }


def _build_overrides(panel: Panel) -> list[dict[str, Any]]:
    overrides = []
    for target in panel.targets:
        if target.is_total:
            stacking = {"id": "custom.stacking", "value": {"mode": "none", "group": "A"}}
            fill = {"id": "custom.fillOpacity", "value": 0}
            overrides.append(_override(target.legend, stacking, fill))
        given = {"unit": target.unit, "decimals": target.decimals}
        properties: list[dict[str, Any]] = [
            {"id": name, "value": value} for name, value in given.items() if value is not None
        ]
        if not properties:
            continue
        if panel.kind == "timeseries":
            properties.append({"id": "custom.axisPlacement", "value": "right"})
        overrides.append(_override(target.legend, *properties))
    return overrides + [
        _override(name, {"id": "color", "value": {"mode": "fixed", "fixedColor": colour}})
        for name, colour in panel.colours.items()
    ]


def _override(name: str, *properties: dict[str, Any]) -> dict[str, Any]:
    return {"matcher": {"id": "byName", "options": name}, "properties": list(properties)}


def _build_transformations(panel: Panel) -> list[dict[str, Any]]:
    """Of the queries of a table one row for each set of labels, and columns called like the queries."""
    values = {
        _value_of(panel, letter): target for letter, target in zip(_LETTERS, panel.targets, strict=False)
    }
    hidden = [name for name, target in values.items() if target.adds_labels]
    names = {name: target.legend for name, target in values.items() if not target.adds_labels}
    fields = {legend: name for name, legend in names.items()}
    organize = {
        "excludeByName": dict.fromkeys(["Time", *hidden], True),
        "renameByName": names,
        "indexByName": {fields.get(column, column): index for index, column in enumerate(panel.columns)},
    }
    return [{"id": "merge", "options": {}}, {"id": "organize", "options": organize}]


def _value_of(panel: Panel, letter: str) -> str:
    """How Grafana calls the values of a query in a table."""
    return f"Value #{letter}" if len(panel.targets) > 1 else "Value"


def _build_options(panel: Panel) -> dict[str, Any]:
    newest = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    if panel.kind == "stat":
        several = "value_and_name" if len(panel.targets) > 1 else "auto"
        text = "name" if panel.shows_name else several
        return {"reduceOptions": newest, "textMode": text, "colorMode": "none", "graphMode": "none"}
    if panel.kind == "bargauge":
        return {"reduceOptions": newest, "orientation": "horizontal", "displayMode": "basic"}
    if panel.kind == "state-timeline":
        return {"showValue": "never", "mergeValues": True, "legend": {"showLegend": True}}
    if panel.kind == "timeseries":
        return {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return {"showHeader": True}


def _build_target(target: Target, letter: str, kind: Kind) -> dict[str, Any]:
    is_instant = target.instant or kind == "table"
    return {
        "refId": letter,
        "datasource": _DATASOURCE,
        "expr": target.expr,
        "legendFormat": target.legend,
        "instant": is_instant,
        "range": not is_instant,
        "format": "table" if kind == "table" else "time_series",
    }


def _build_variable(variable: Variable) -> dict[str, Any]:
    built: dict[str, Any] = {
        "name": variable.name,
        "label": variable.label,
        "type": "query",
        "datasource": _DATASOURCE,
        "query": variable.query,
        "definition": variable.query,
        "refresh": 2,  # when the time range changes: jobs come and go
        "sort": 1,
        "regex": variable.regex,
        "hide": 2 if variable.hidden else 0,
        "multi": variable.several,
        "includeAll": variable.several,
    }
    if variable.several:
        built |= {"allValue": ".+", "current": {"text": "All", "value": "$__all"}}
    return built


def _build_annotation(annotation: Annotation) -> dict[str, Any]:
    return {
        "name": annotation.name,
        "datasource": _DATASOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": annotation.expr,
        "titleFormat": annotation.name,
        "textFormat": annotation.text,
        "useValueForTime": "on",
        "step": "60s",
    }
