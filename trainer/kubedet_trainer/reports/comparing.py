"""What the page that compares runs shows: their rows, curves in one picture, differences of recipes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kubedet_trainer.reports import charts, published, views
from kubedet_trainer.reports.charts import Chart, Series

Document = Mapping[str, Any]
Runs = Mapping[str, Document]
"""Name to report."""

_FURTHER = ("boxAP50", "boxAP75", "boxAPs", "boxAPm", "boxAPl")
_HEADINGS = {
    "secondsPerIteration": "s/iteration",
    "memoryGB": "GB",
    "inferenceFps": "images/s",
    "inferenceFpsBatch8": "images/s, batch 8",
}
_HOUR = 3600.0


def name_runs(places: Sequence[str]) -> list[str]:
    """Short names of the runs at these places, which differ: without the parts that all begin or end with."""
    parts = [place.strip("/").split("/") for place in places]
    shortest = min(map(len, parts)) - 1
    begin, end = _shared(parts, shortest), _shared([own[::-1] for own in parts], shortest)
    if any(begin + end >= len(own) for own in parts):
        end = 0
    return ["/".join(own[begin : len(own) - end]) for own in parts]


def _shared(parts: Sequence[Sequence[str]], most: int) -> int:
    """How many parts all have in common at their beginning."""
    return next((depth for depth in range(most) if len({own[depth] for own in parts}) > 1), most)


def row_table(runs: Runs) -> dict[str, Any]:
    """A row for each run: its figures, and what it cost."""
    figures = [name for name in published.FIGURES if any(run.get(name) is not None for run in runs.values())]
    further = [name for name in _FURTHER if any(name in _metrics(run) for run in runs.values())]
    rows = []
    for name, run in runs.items():
        time, best = run.get("time") or {}, run.get("best") or {}
        values = [
            *(_cell(run.get(figure), published.FIGURES[figure][1]) for figure in figures),
            *(_cell(_metrics(run).get(figure), 1) for figure in further),
            _cell(best.get("epoch"), 0),
            _cell(_hours(time), 2),
            _cell(time.get("goodputPercent"), 0),
        ]
        rows.append({"name": name, "recipe": run["recipe"], "cells": values})
    headings = [_HEADINGS.get(name) or views.title_of(name) for name in (*figures, *further)]
    return {
        "headings": [*headings, "best epoch", "GPU hours" if _on_gpu(runs) else "hours", "goodput %"],
        "rows": rows,
    }


def recipe_differences(runs: Runs) -> list[tuple[str, list[str]]]:
    """Each field of the recipe or condition in which the runs differ, with the value of each run.

    Runs whose reports do not have their recipes, as those of earlier versions, differ in none of its fields.
    """
    known = {name: dict(_conditions(run)) for name, run in runs.items()}
    table = []
    for field in dict.fromkeys(field for values in known.values() for field in values):
        values = [values.get(field, "-") for values in known.values()]
        told = [
            value
            for value, run in zip(values, runs.values(), strict=True)
            if value != "-" or (run.get("run") or {}).get("settings")
        ]
        if len(set(told)) > 1:
            table.append((field, values))
    return table


def comparison_charts(runs: Runs) -> list[Chart]:
    """The main figure over the iterations and over what was spent, and the losses, a line for each run."""
    unit = "GPU hours" if _on_gpu(runs) else "hours"
    main = dict.fromkeys(figure for run in runs.values() if (figure := views.main_figure(run)) is not None)
    made: list[Chart | None] = []
    for figure in main:
        title = views.title_of(figure)
        made.append(
            charts.build_chart(
                f"{title} over iterations",
                [_series(number, name, _values(run, figure)) for number, (name, run) in _numbered(runs)],
                x_label="iteration",
            )
        )
        made.append(
            charts.build_chart(
                f"{title} over {unit}",
                [_series(number, name, _over_hours(run, figure)) for number, (name, run) in _numbered(runs)],
                x_label=unit,
            )
        )
    losses = [
        Series(
            name=name,
            colour=number,
            points=[(point["iteration"], sum(point["losses"].values())) for point in run.get("training", ())],
        )
        for number, (name, run) in _numbered(runs)
    ]
    made.append(charts.build_chart("Loss", losses, x_label="iteration"))
    return [chart for chart in made if chart is not None]


def _series(number: int, name: str, points: Sequence[charts.Point]) -> Series:
    return Series(name=name, colour=number, points=points, dots=True)


def _numbered(runs: Runs) -> Iterator[tuple[int, tuple[str, Document]]]:
    return enumerate(runs.items(), start=1)


def _metrics(run: Document) -> dict[str, float]:
    return {item["name"]: item["value"] for item in run.get("metrics", ())}


def _values(run: Document, figure: str) -> list[charts.Point]:
    return [
        (point["iteration"], point["metrics"][figure])
        for point in run.get("evaluations", ())
        if figure in point["metrics"]
    ]


def _over_hours(run: Document, figure: str) -> list[charts.Point]:
    hours = {point["iteration"]: _hours(point) for point in run.get("spent", ())}
    return [(hours[x] or 0.0, value) for x, value in _values(run, figure) if x in hours]


def _hours(spent: Mapping[str, Any]) -> float | None:
    """GPU hours, or on CPUs hours."""
    if spent.get("gpuSeconds"):
        return float(spent["gpuSeconds"]) / _HOUR
    seconds = spent.get("seconds")
    if isinstance(seconds, Mapping):
        return sum(seconds.values()) / _HOUR
    return None if seconds is None else float(seconds) / _HOUR


def _on_gpu(runs: Runs) -> bool:
    return any((run.get("time") or {}).get("gpuSeconds") for run in runs.values())


def _conditions(run: Document) -> Iterator[tuple[str, str]]:
    hardware, data = run.get("hardware") or {}, run.get("data") or {}
    yield "recipe", str(run["recipe"])
    for name in ("accelerator", "worldSize", "precision", "globalBatch"):
        if name in hardware:
            yield name, str(hardware[name])
    if "uri" in data:
        yield "data", str(data["uri"])
    settings = (run.get("run") or {}).get("settings") or {}
    yield from _leaves({name: value for name, value in settings.items() if name not in ("name", "reference")})


def _leaves(document: Mapping[str, Any], *, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, prefix=f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)


def _cell(value: float | None, decimals: int) -> tuple[str, float]:
    return ("-", -1.0) if value is None else (f"{value:.{decimals}f}", float(value))
