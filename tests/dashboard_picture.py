"""Draws a dashboard without Grafana: its layout, queries, legends, units and columns, from its JSON.

It shows whether a dashboard can be read. It is no Grafana: colours, ticks and fonts are its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from html import escape
from typing import Any

from monitoring.prometheus import Prometheus, Series, View
from monitoring.queries import fill

_CELL, _LINE = 64, 36
"""Pixels of one column and of one line of Grafana's grid."""
_PALETTE = ("#3274d9", "#e0752d", "#299c46", "#a352cc", "#e0b400", "#c4162a", "#5ac8c8", "#8e8e8e", "#7a4a2b")
_STYLE = """
body { margin: 0; background: #f4f5f5; font: 12px sans-serif; color: #24292e }
section { position: absolute; box-sizing: border-box; padding: 2px }
section > div { height: 100%; box-sizing: border-box; background: #fff; border: 1px solid #ddd;
  padding: 4px 8px; overflow: hidden }
h1 { position: absolute; margin: 8px; font-size: 15px } h2 { margin: 0 0 4px; font-size: 12px }
.number { font-size: 26px } table { border-collapse: collapse; white-space: nowrap }
td, th { text-align: left; padding: 1px 10px 1px 0; border-bottom: 1px solid #eee } .none { color: #999 }
.bar { background: #3274d9; height: 12px; display: inline-block; margin-right: 6px }
.key { display: inline-block; width: 9px; height: 9px; margin: 0 3px 0 9px }
"""
Panel = Mapping[str, Any]
Answers = list[list[tuple[str, Series]]]
"""Of each target, legends and series."""


def draw(dashboard: Mapping[str, Any], prometheus: Prometheus, view: View) -> str:
    """The page, with collapsed rows opened."""
    parts, top, shift = [], 0, 0
    headings = _read_hidden(dashboard, prometheus, view)
    for panel in dashboard["panels"]:
        panel = {**panel, "title": fill(panel["title"], headings)}
        place = dict(panel["gridPos"])
        parts.append(_frame(panel, place, shift=shift, prometheus=prometheus, view=view))
        top = max(top, place["y"] + place["h"] + shift)
        if panel["type"] != "row" or not panel["panels"]:
            continue
        end = max(below["gridPos"]["y"] + below["gridPos"]["h"] for below in panel["panels"])
        parts += [
            _frame(below, below["gridPos"], shift=shift, prometheus=prometheus, view=view)
            for below in panel["panels"]
        ]
        shift += end - place["y"] - 1
        top = max(top, end + shift)
    height = f"<div style='height:{(top + 2) * _LINE}px'></div>"
    head = f"<!doctype html><meta charset=utf-8><style>{_STYLE}</style><h1>{escape(dashboard['title'])}</h1>"
    return head + "".join(parts) + height


def _read_hidden(dashboard: Mapping[str, Any], prometheus: Prometheus, view: View) -> dict[str, str]:
    """The variables that headings name: a number that Prometheus answers."""
    hidden = [variable for variable in dashboard["templating"]["list"] if variable.get("hide")]
    queries = {
        variable["name"]: variable["query"].removeprefix("query_result(").removesuffix(")")
        for variable in hidden
    }
    return {name: f"{prometheus.query(query, view)[0].newest:.0f}" for name, query in queries.items()}


def _frame(panel: Panel, place: Mapping[str, int], *, shift: int, prometheus: Prometheus, view: View) -> str:
    left, top = place["x"] * _CELL, (place["y"] + 1 + shift) * _LINE
    width, height = place["w"] * _CELL, place["h"] * _LINE
    box = f"style='left:{left}px;top:{top}px;width:{width}px;height:{height}px'"
    if panel["type"] == "row":
        return f"<section {box}><b>{escape(panel['title'])}</b></section>"
    found = [list(_ask(target, prometheus, view)) for target in panel["targets"]]
    inside = _BODIES[panel["type"]](panel, found, width - 26, height - 46)
    return f"<section class=panel {box}><div><h2>{escape(panel['title'])}</h2>{inside}</div></section>"


def _ask(target: Mapping[str, Any], prometheus: Prometheus, view: View) -> Iterator[tuple[str, Series]]:
    ask = prometheus.query if target["instant"] else prometheus.query_range
    for series in ask(target["expr"], view):
        legend = target["legendFormat"]
        for label, value in series.labels.items():
            legend = legend.replace(f"{{{{{label}}}}}", value)
        yield legend, series


def _overrides(panel: Panel, name: str, key: str) -> Any:
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"]["options"] == name:
            for change in override["properties"]:
                if change["id"] == key:
                    return change["value"]
    return None


def _write(panel: Panel, name: str, value: float) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    unit, decimals = _overrides(panel, name, "unit") or defaults["unit"], _overrides(panel, name, "decimals")
    decimals = defaults.get("decimals") if decimals is None else decimals
    digits = decimals if decimals is not None else 2
    unit = str(unit)
    if unit == "percentunit":
        return f"{100 * value:.1f} %"
    if unit == "s":
        hours, rest = divmod(value, 3600)
        return (
            f"{hours:.0f} h {rest / 60:.0f} min"
            if hours
            else f"{value / 60:.1f} min"
            if value > 90
            else f"{value:.3g} s"
        )
    if unit in ("bytes", "Bps"):
        power = next(power for power in (4, 3, 2, 1, 0) if abs(value) >= 1024**power or not power)
        return f"{value / 1024**power:.1f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}" + "/s" * (
            unit == "Bps"
        )
    words = {
        "percent": " %",
        "h": " hours",
        "watt": " W",
        "celsius": " °C",
        "reqps": " req/s",
        "ops": " ops/s",
    }
    suffix = words.get(unit, unit.removeprefix("suffix:") if unit.startswith("suffix:") else "")
    return f"{value:.2g}" if unit == "sci" else f"{value:.{digits}f}".removesuffix(".00") + suffix


def _colour(panel: Panel, name: str, number: int) -> str:
    fixed = _overrides(panel, name, "color") or {}
    return str(fixed.get("fixedColor", _PALETTE[number % len(_PALETTE)]))


def _empty() -> str:
    return "<span class=none>No data</span>"


def _stat(panel: Panel, found: Answers, *_: int) -> str:
    shows_name = panel["options"]["textMode"] == "name"
    texts = [
        escape(name if shows_name else _write(panel, name, series.newest))
        for name, series in itertools.chain(*found)
    ]
    return "".join(f"<div class=number>{text}</div>" for text in texts) or _empty()


def _bars(panel: Panel, found: Answers, *_: int) -> str:
    items = list(itertools.chain(*found))
    most = max((series.newest for _legend, series in items), default=0) or 1
    widths = [f"style='width:{150 * max(0, series.newest) / most:.0f}px'" for _legend, series in items]
    rows = [
        f"<tr><td>{escape(name)}<td><span class=bar {width}></span>"
        f"{escape(_write(panel, name, series.newest))}"
        for (name, series), width in zip(items, widths, strict=True)
    ]
    return f"<table>{''.join(rows)}</table>" if rows else _empty()


def _table(panel: Panel, found: Answers, *_: int) -> str:
    """Merged as Grafana does it: rows with the same labels are one."""
    organize = panel["transformations"][1]["options"]
    letters = [f"Value #{target['refId']}" for target in panel["targets"]]
    letters = ["Value"] if len(letters) == 1 else letters
    rows: list[dict[str, str | float]] = []
    for letter, answers in zip(letters, found, strict=True):
        for _legend, series in answers:
            labels = {key: value for key, value in series.labels.items() if key != "__name__"}
            same = [row for row in rows if all(row.get(key, value) == value for key, value in labels.items())]
            for row in same or [{}]:
                row.update(labels)
                row[letter] = series.newest
                if not same:
                    rows.append(row)
    order, names = organize["indexByName"], organize["renameByName"]
    fields = list(dict.fromkeys(field for row in rows for field in row))
    fields = [field for field in fields if not organize["excludeByName"].get(field)]
    fields.sort(
        key=lambda field: order.get(field, len(order) + letters.index(field) if field in letters else 99)
    )
    mappings = panel["fieldConfig"]["defaults"].get("mappings", [{"options": {}}])[0]["options"]

    def cell(row: Mapping[str, str | float], field: str) -> str:
        value = row.get(field, "")
        if isinstance(value, float):
            return escape(_write(panel, names.get(field, field), value))
        return escape(mappings.get(value, {}).get("text", value))

    head = "".join(f"<th>{escape(names.get(field, field))}" for field in fields)
    body = "".join("<tr>" + "".join(f"<td>{cell(row, field)}" for field in fields) for row in rows)
    return f"<table><tr>{head}{body}</table>" if rows else _empty()


def _curves(panel: Panel, found: Answers, width: int, height: int) -> str:
    items = list(itertools.chain(*found))
    if not items:
        return _empty()
    custom = panel["fieldConfig"]["defaults"]["custom"]
    stacked = custom.get("stacking", {}).get("mode") == "normal"
    base: dict[float, float] = {}
    lines, shown = [], height - 34
    for name, series in items:
        alone = (_overrides(panel, name, "custom.stacking") or {}).get("mode") == "none"
        points = dict(series.points)
        if stacked and not alone:
            base = {time: base.get(time, 0) + points.get(time, 0) for time in sorted({*base, *points})}
            points = dict(base)
        lines.append((name, points, _overrides(panel, name, "custom.axisPlacement") == "right"))
    begin = min(time for _, points, _ in lines for time in points)
    span = max(max(time for _, points, _ in lines for time in points) - begin, 1)
    defaults, marks = panel["fieldConfig"]["defaults"], []
    colours = [_colour(panel, name, number) for number, (name, _, _) in enumerate(lines)]
    for number, (_, points, is_right) in enumerate(lines):
        colour = colours[number]
        axis = [value for _, other, right in lines for value in other.values() if right is is_right]
        low, high = defaults.get("min", min(axis)), defaults.get("max", max(axis))
        high = high if high > low else low + 1
        path = [
            (60 + (width - 60) * (time - begin) / span, shown * (1 - (value - low) / (high - low)))
            for time, value in points.items()
        ]
        if custom.get("drawStyle") == "bars":
            marks += [
                f"<rect x='{x:.0f}' y='{y:.0f}' width='3' height='{shown - y:.0f}' fill='{colour}'/>"
                for x, y in path
            ]
        else:
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in path)
            marks.append(f"<polyline points='{line}' fill='none' stroke='{colour}' stroke-width='1.5'/>")
        if number == 0:
            marks += [
                f"<text x='0' y='{y}' font-size='10'>{escape(_write(panel, '', value))}</text>"
                for y, value in ((10, high), (shown, low))
            ]
    keys = "".join(
        f"<span class=key style='background:{colour}'></span>{escape(name)}"
        for colour, (name, _, _) in zip(colours, lines, strict=True)
    )
    return f"<svg width='{width}' height='{shown + 2}'>{''.join(marks)}</svg><div>{keys}</div>"


_BODIES: Mapping[str, Callable[[Panel, Answers, int, int], str]] = {
    "stat": _stat,
    "bargauge": _bars,
    "table": _table,
    "timeseries": _curves,
    "state-timeline": _curves,
}
