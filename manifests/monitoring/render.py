"""Draws a generated dashboard out of a real Prometheus, roughly as Grafana would: one subplot a panel."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from monitoring.prometheus import Prometheus, Series, View

_COLUMNS = 24
_CELL_INCHES = (0.74, 0.36)
_COLOURS = [f"C{index}" for index in range(10)]
_MAX_LEGEND = 8
_LEGEND_LENGTH = 44

_Panel = Mapping[str, Any]
_Found = list[tuple[str, Series, str]]
"""Of each series its name, its points and its unit."""


def render(path: Path, prometheus: Prometheus, view: View, *, output: Path) -> None:
    """Draw the dashboard in the JSON file `path` to a PNG."""
    dashboard = json.loads(path.read_text())
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"]) + 1
    figure = Figure(figsize=(_COLUMNS * _CELL_INCHES[0], height * _CELL_INCHES[1]), dpi=70)
    FigureCanvasAgg(figure)
    figure.text(0.01, 1 - 0.4 / height, dashboard["title"], fontsize=13, weight="bold", va="top")
    marks = [
        series
        for annotation in dashboard["annotations"]["list"]
        for series in prometheus.query_range(annotation["expr"], view)
    ]
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        top = 1 - (place["y"] + 1) / height
        if panel["type"] == "row":
            figure.text(0.01, top - 0.5 / height, panel["title"], fontsize=11, color="#1f60c4", va="center")
            continue
        box = (
            (place["x"] + 0.9) / _COLUMNS,
            top - (place["h"] - 1.1) / height,
            (place["w"] - 1.4) / _COLUMNS,
            (place["h"] - 2.1) / height,
        )
        axes = figure.add_axes(box)
        axes.set_title(panel["title"], fontsize=9.5, loc="left")
        axes.tick_params(labelsize=7)
        found = _ask(panel, prometheus, view)
        if not found:
            axes.text(0.5, 0.5, "No data", ha="center", va="center", color="#c4162a", fontsize=9)
            axes.axis("off")
            continue
        _DRAW[panel["type"]](axes, panel, found)
        if panel["type"] in ("timeseries", "state-timeline"):
            _finish_time_axis(axes, view, marks)
    figure.savefig(output)


def _ask(panel: _Panel, prometheus: Prometheus, view: View) -> _Found:
    units = {
        override["matcher"]["options"]: change["value"]
        for override in panel["fieldConfig"]["overrides"]
        for change in override["properties"]
        if change["id"] == "unit"
    }
    default = panel["fieldConfig"]["defaults"]["unit"]
    found: _Found = []
    for target in panel["targets"]:
        ask = prometheus.query if target["instant"] else prometheus.query_range
        legend = target["legendFormat"]
        unit = units.get(legend, default)
        found += [(_title(legend, series), series, unit) for series in ask(target["expr"], view)]
    return found


def _title(legend: str, series: Series) -> str:
    if legend == "__auto":
        return ", ".join(series.labels.values())
    return re.sub(r"{{(\w+)}}", lambda match: series.labels.get(match[1], ""), legend).strip() or "(none)"


def _draw_curves(axes: Axes, panel: _Panel, found: _Found) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    unit = defaults["unit"]
    if defaults["custom"]["stacking"]["mode"] == "normal":
        times, curves = _on_grid(found, absent=0.0)
        axes.stackplot(
            times,
            curves,
            labels=[name for name, _, _ in found],
            colors=[_colour(panel, name, index) for index, (name, _, _) in enumerate(found)],
            alpha=0.75,
        )
    else:
        times, curves = _on_grid(found, absent=math.nan)
        for index, ((name, series, own), curve) in enumerate(zip(found, curves, strict=True)):
            is_right = own != unit
            target = _right_axis(axes, own) if is_right else axes
            colour = _COLOURS[index % 10]
            target.plot(
                times,
                curve,
                lw=1,
                color=colour,
                marker="." if len(series.times) == 1 else None,
            )
            axes.plot([], [], lw=1, color=colour, label=f"{name} (right)" if is_right else name)
    low, high = axes.get_ylim()
    low, high = defaults.get("min", low), defaults.get("max", 1.05 * high)
    axes.set_ylim(low - 0.02 * (high - low), high)  # so that a curve along the axis is seen
    _set_scale(axes, unit)
    axes.grid(alpha=0.25)
    handles, labels = axes.get_legend_handles_labels()
    short = [label[:_LEGEND_LENGTH] for label in labels[:_MAX_LEGEND]]
    axes.legend(handles[:_MAX_LEGEND], short, fontsize=7, loc="best", framealpha=0.6)


def _on_grid(found: _Found, *, absent: float) -> tuple[list[float], list[list[float]]]:
    """The curves at the same, evenly spaced times, so that gaps are seen."""
    known = sorted({time for _, series, _ in found for time in series.times})
    step = min((after - before for before, after in itertools.pairwise(known)), default=1.0)
    size = round((known[-1] - known[0]) / step) + 1
    curves = [[absent] * size for _ in found]
    for curve, (_, series, _) in zip(curves, found, strict=True):
        for time, value in zip(series.times, series.values, strict=True):
            curve[round((time - known[0]) / step)] = value
    return [known[0] + step * index for index in range(size)], curves


def _colour(panel: _Panel, name: str, index: int) -> Any:
    for override in panel["fieldConfig"]["overrides"]:
        for change in override["properties"]:
            if change["id"] == "color" and override["matcher"]["options"] == name:
                return change["value"]["fixedColor"]
    return _COLOURS[index % 10]


def _right_axis(axes: Axes, unit: str) -> Axes:
    right = axes.twinx()
    right.tick_params(labelsize=7)
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _format(value, unit)))
    return right


def _set_scale(axes: Axes, unit: str) -> None:
    """Ticks at round numbers of the unit's scale."""
    low, high = axes.get_ylim()
    scale = next((size for size, _ in _SCALES.get(unit, ()) if high >= 2 * size), 1.0)
    ticks = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low / scale, high / scale)
    axes.set_yticks([scale * tick for tick in ticks if low <= scale * tick <= high])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _format(value, unit)))


def _draw_states(axes: Axes, _: _Panel, found: _Found) -> None:
    for index, (_name, series, _unit) in enumerate(found):
        axes.plot(series.times, [index] * len(series.times), "s", ms=4, color=_COLOURS[index % 10])
    axes.set_yticks(range(len(found)), [name for name, _, _ in found], fontsize=5.5)
    axes.tick_params(axis="y", pad=1, length=2)
    axes.set_ylim(-0.7, len(found) - 0.3)


def _draw_numbers(axes: Axes, panel: _Panel, found: _Found) -> None:
    by_name = panel["options"]["textMode"] == "name"
    texts = [name if by_name else _format(series.newest, unit) for name, series, unit in found]
    size = 16 if max(map(len, texts)) < 10 else 9
    axes.text(0.5, 0.5, "\n".join(texts[:4]), ha="center", va="center", fontsize=size, color="#37872d")
    axes.axis("off")


def _draw_bars(axes: Axes, _: _Panel, found: _Found) -> None:
    places = range(len(found))
    axes.barh(places, [series.newest for _, series, _ in found], color="#5794f2")
    axes.set_yticks(places, [f"{name}: {_format(series.newest, unit)}" for name, series, unit in found])
    axes.tick_params(axis="y", direction="in", pad=-4)
    for label in axes.get_yticklabels():
        label.set_horizontalalignment("left")
    axes.set_xticks([])
    axes.invert_yaxis()


def _draw_table(axes: Axes, panel: _Panel, found: _Found) -> None:
    """Rows joined by namespace and name, as the transformation of the panel does."""
    columns = [target["legendFormat"] for target in panel["targets"]]
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for name, series, unit in found:
        row = rows.setdefault((series.labels["namespace"], series.labels["name"]), {})
        row[name] = _format(series.newest, unit)
        row |= {label: value for label, value in series.labels.items() if label in ("phase", "recipe")}
    head = ["phase", "recipe", *columns[1:]]
    text = [[*key, *(row.get(column, "") for column in head)] for key, row in sorted(rows.items())]
    table = axes.table(cellText=text, colLabels=["namespace", "name", *head], loc="upper center")
    table.auto_set_font_size(False)
    table.set_fontsize(7)
    axes.axis("off")


_DRAW: Mapping[str, Callable[[Axes, _Panel, _Found], None]] = {
    "timeseries": _draw_curves,
    "state-timeline": _draw_states,
    "stat": _draw_numbers,
    "bargauge": _draw_bars,
    "table": _draw_table,
}


def _finish_time_axis(axes: Axes, view: View, marks: list[Series]) -> None:
    start = view.end - view.seconds
    axes.set_xlim(start, view.end)
    ticks = [start + view.seconds * part / 6 for part in range(1, 6)]
    style = "%H:%M" if view.seconds > 1800 else "%H:%M:%S"
    axes.set_xticks(ticks, [f"{datetime.fromtimestamp(tick, UTC):{style}}" for tick in ticks])
    for moment in {value / 1000 for series in marks for value in series.values}:
        if start <= moment <= view.end:
            axes.axvline(moment, color="#c4162a", lw=0.8, ls="--")


_SCALES: Mapping[str, tuple[tuple[float, str], ...]] = {
    "s": ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "bytes": ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B")),
    "percentunit": ((0.01, "%"),),
    "percent": ((1, "%"),),
    "h": ((1, "h"),),
    "ops": ((1, "/s"),),
    "reqps": ((1, "/s"),),
}


def _format(value: float, unit: str) -> str:
    """A value in the largest of its unit's scales that leaves it at 1 or above."""
    for scale, word in _SCALES.get(unit, ()):
        if abs(value) >= scale or len(_SCALES[unit]) == 1:
            return f"{_short(value / scale)} {word}"
    return _short(value)


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
