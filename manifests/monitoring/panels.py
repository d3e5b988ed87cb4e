"""Dashboards as values, and the classic JSON that Grafana imports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

_COLUMNS = 24
_LETTERS = "ABCDEFGH"
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
    bounds: tuple[float | None, float | None] = (0, None)
    """Least and greatest value of the axis."""
    colours: Mapping[str, str] = field(default_factory=dict)
    """Of series that mean well or ill, by their name."""
    shows_name: bool = False
    """Of a stat: whether it shows the name of its series instead of the value, which is 1."""
    link: str | None = None
    """Address that a click leads to."""


@dataclass(frozen=True, kw_only=True)
class Variable:
    """A choice at the top of a dashboard."""

    name: str
    label: str
    query: str
    """``label_values(...)``"""
    several: bool = False


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """Marks on the time axis; the value of the query is the moment, in milliseconds."""

    name: str
    expr: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """One page of panels, in rows with a heading."""

    uid: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]
    annotations: tuple[Annotation, ...] = ()
    range: str = "now-6h"
    tags: tuple[str, ...] = field(default=("kubedet",))

    def panels(self) -> list[Panel]:
        """All panels, in order."""
        return [panel for _, panels in self.rows for panel in panels]


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


def _place(rows: Sequence[tuple[str, Sequence[Panel]]]) -> list[dict[str, Any]]:
    """Panels from left to right, as many in a line as there is room for."""
    placed: list[dict[str, Any]] = []
    top = 0
    for heading, panels in rows:
        row = {"type": "row", "title": heading, "collapsed": False, "panels": []}
        placed.append(row | {"id": len(placed) + 1, "gridPos": _grid(0, top, _COLUMNS, 1)})
        top += 1
        left = height = 0
        for panel in panels:
            if left + panel.width > _COLUMNS:
                top, left, height = top + height, 0, 0
            place = {"id": len(placed) + 1, "gridPos": _grid(left, top, panel.width, panel.height)}
            placed.append(_build_panel(panel) | place)
            left, height = left + panel.width, max(height, panel.height)
        top += height
    return placed


def _grid(left: int, top: int, width: int, height: int) -> dict[str, int]:
    return {"x": left, "y": top, "w": width, "h": height}


def _build_panel(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "custom": _CUSTOM.get(panel.kind, {})}
    if panel.kind == "timeseries":
        defaults["custom"] = _build_curve(panel)
    for name, bound in zip(("min", "max"), panel.bounds, strict=True):
        if bound is not None:
            defaults[name] = bound
    if panel.link:
        defaults["links"] = [{"title": "Job", "url": panel.link}]
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
    if panel.kind == "table":
        built["transformations"] = _build_transformations(panel)
    return built


_CUSTOM: dict[Kind, dict[str, Any]] = {"state-timeline": {"fillOpacity": 70, "lineWidth": 0}}


def _build_curve(panel: Panel) -> dict[str, Any]:
    return {
        "lineWidth": 1,
        "fillOpacity": 60 if panel.stacked else 5,
        "showPoints": "never",
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
    }


def _build_overrides(panel: Panel) -> list[dict[str, Any]]:
    overrides = []
    for target in panel.targets:
        if target.unit is None:
            continue
        properties: list[dict[str, Any]] = [{"id": "unit", "value": target.unit}]
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
    """Of the queries of a table one row a job, and columns that are called like the queries."""
    names = {
        f"Value #{letter}": target.legend for letter, target in zip(_LETTERS, panel.targets, strict=False)
    }
    organize = {"excludeByName": {"Time": True}, "renameByName": names}
    return [{"id": "merge", "options": {}}, {"id": "organize", "options": organize}]


def _build_options(panel: Panel) -> dict[str, Any]:
    newest = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    if panel.kind == "stat":
        text = "name" if panel.shows_name else "auto"
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
