"""What the page of a run shows, made of its report: plain values, which the templates lay out.

A report of an earlier version lacks some parts; what belongs to them is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kubedet_trainer.contract import Task, TimePhase
from kubedet_trainer.contract.times import parse_time
from kubedet_trainer.evaluation.scores import VALIDATION_LOSS
from kubedet_trainer.reports import charts, published
from kubedet_trainer.reports.charts import Chart, Series

PRECISIONS = ("boxAP", "boxAP50", "boxAP75", "boxAPs", "boxAPm", "boxAPl", "maskAP", "maskAP50")
RECALLS = ("ar100", "ar300", "ar1000")

_GRID_CLASSES = 24
"""Up to so many classes a confusion matrix is drawn; with more its cells could not be read."""
_CONFUSIONS = 20
_TITLES = {
    "boxAP": "AP",
    "boxAP50": "AP50",
    "boxAP75": "AP75",
    "boxAPs": "small",
    "boxAPm": "medium",
    "boxAPl": "large",
    "maskAP": "mask AP",
    "maskAP50": "mask AP50",
    "maskAP75": "mask AP75",
    "maskAPs": "mask small",
    "maskAPm": "mask medium",
    "maskAPl": "mask large",
    "ar100": "AR100",
    "ar300": "AR300",
    "ar1000": "AR1000",
}
_PHASES: Mapping[str, str] = {
    TimePhase.TRAINING: "training",
    TimePhase.DATA_WAIT: "waiting for data",
    TimePhase.CHECKPOINT_STALL: "saving checkpoints",
    TimePhase.EVALUATING: "evaluating",
    TimePhase.STARTING: "starting",
    TimePhase.RESTORING: "restoring",
    TimePhase.RESTARTING: "restarting",
    TimePhase.LOST: "lost",
}
_ERRORS: Mapping[str, tuple[str, str]] = {
    "classification": ("Wrong class", "at the place of an object of another class"),
    "localisation": ("Wrong place", "overlaps an object of its class by 0.1 to 0.5"),
    "both": ("Both", "overlaps an object of another class by 0.1 to 0.5"),
    "duplicate": ("Duplicate", "a better detection has found the object"),
    "background": ("Background", "overlaps no object by 0.1"),
}
_MEMORY = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "state of the optimiser",
    "rest": "activations and workspace",
}


def title_of(figure: str) -> str:
    """How a figure is called on a page."""
    return _TITLES.get(figure, figure)


def is_measured(document: Mapping[str, Any]) -> bool:
    """Whether the row is of weights that existed before the run, which trained nothing."""
    return document.get("task") == Task.MEASURE


def main_figure(document: Mapping[str, Any]) -> str | None:
    """The figure that the recipe is judged by."""
    return next((name for name in ("maskAP", "boxAP", "ar1000") if document.get(name) is not None), None)


def cards(document: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Label, value and note of what a reader wants to know first."""
    metrics = {item["name"]: item["value"] for item in document.get("metrics", ())}
    reference = document.get("reference") or {}
    for name in ("boxAP", "boxAP50", "maskAP", "ar1000"):
        value = document.get(name, metrics.get(name))
        if value is not None:
            known = reference.get(name)
            yield title_of(name), f"{value:.1f}", "" if known is None else f"published {known:.1f}"
    if (value := document.get("secondsPerIteration")) is not None:
        yield "s / iteration", f"{value:.3g}", ""
    if (value := document.get("inferenceFps")) is not None:
        yield "images / s", f"{value:.3g}", "inference, batch 1"
    if (value := document.get("memoryGB")) is not None:
        yield "memory", f"{value:.2f} GB", ""
    time = document.get("time")
    if time:
        if time["gpuSeconds"]:
            yield "GPU hours", f"{time['gpuSeconds'] / 3600:.3g}", ""
        if not is_measured(document):
            yield "goodput", f"{time['goodputPercent']:.0f} %", "share of training in the time"


def compared_rows(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Our figures and the published ones, as text."""
    rows = []
    for item in published.compare(document):
        heading, decimals = published.FIGURES[item.figure]
        rows.append({
            "heading": heading,
            "ours": _number(item.ours, decimals),
            "published": _number(item.published, decimals),
            "difference": "-" if item.difference is None else f"{item.difference:+.{decimals}f}",
            "obstacles": item.obstacles,
        })  # fmt: skip
    return rows


def run_charts(document: Mapping[str, Any]) -> list[Chart]:
    """Precision, losses and learning rate over the iterations of a training."""
    if is_measured(document):
        return []
    training, evaluations = document.get("training", ()), document.get("evaluations", ())
    made = [
        charts.build_chart(
            "Precision on the validation split (%)",
            _metric_series(evaluations, PRECISIONS),
            x_label="iteration",
        ),
        charts.build_chart(
            "Recall of proposals (%)", _metric_series(evaluations, RECALLS), x_label="iteration"
        ),
        charts.build_chart("Loss", list(_loss_series(training, evaluations)), x_label="iteration"),
        charts.build_chart(
            "Learning rate",
            [Series(name="rate", points=[(point["iteration"], point["lr"]) for point in training])],
            x_label="iteration",
        ),
    ]
    return [chart for chart in made if chart is not None]


def curve_chart(document: Mapping[str, Any]) -> Chart | None:
    """Precision over recall, or for proposals the recall over the overlap."""
    analysis = document.get("analysis") or {}
    if recalls := analysis.get("recalls"):
        points = [(float(overlap), value) for overlap, value in recalls.items()]
        return charts.build_chart(
            "Share of objects found (%), by overlap",
            [Series(name="recall", points=points, dots=True)],
            x_label="overlap",
            x_range=(0.5, 0.95),
            y_range=(0, 100),
        )
    series = [
        Series(
            name=f"overlap {overlap}",
            colour=number,
            points=[(index / 100, value) for index, value in enumerate(curve)],
            summary=f"AP {100 * sum(curve) / len(curve):.1f}",
        )
        for number, (overlap, curve) in enumerate((analysis.get("curves") or {}).items())
        if curve
    ]
    return charts.build_chart(
        "Precision, mean over the classes", series, x_label="recall", x_range=(0, 1), y_range=(0, 1)
    )


def class_table(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """Heading and cells of each class; a cell has its text and what it is sorted by."""
    analysis = document.get("analysis")
    if not analysis:
        return None
    classes = analysis["classes"]
    figures = dict.fromkeys(name for item in classes for name in item["figures"])
    has_points = any(item.get("best") for item in classes)
    points = ("threshold", "precision", "recall", "f1") if has_points else ()
    rows = []
    for item in classes:
        best = item.get("best") or {}
        found = 100 * item["found"] / item["objects"] if item["objects"] else None
        rows.append({
            "name": item["name"],
            "cells": [
                _cell(item["objects"], "d"),
                _cell(found, ".1f"),
                *(_cell(item["figures"].get(name), ".1f") for name in figures),
                *(_cell(best.get(name), ".2f" if name == "threshold" else ".1f") for name in points),
            ],
            "spark": charts.sparkline(item["curve"]) if item.get("curve") else "",
        })  # fmt: skip
    return {
        "headings": ["objects", "found %", *map(title_of, figures), *_point_headings(points)],
        "rows": rows,
        "has_curves": any(row["spark"] for row in rows),
    }


def error_bars(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """The detections at the best threshold by kind of error, and what became of the objects."""
    counts = (document.get("analysis") or {}).get("errors")
    if not counts:
        return None
    most = max(counts["right"], counts["missed"], counts["blamed"], *counts["wrong"].values(), 1)

    def bar(label: str, note: str, count: int, kind: str) -> dict[str, Any]:
        return {"label": label, "note": note, "count": count, "percent": 100 * count / most, "kind": kind}

    return {
        "counts": counts,
        "detections": [
            bar("Right", "found an object", counts["right"], "good"),
            *(bar(*_name_error(kind), count, "bad") for kind, count in counts["wrong"].items()),
        ],
        "objects": [
            bar("Found", "", counts["right"], "good"),
            bar("Wrong class or place", "a detection explains why it is not found", counts["blamed"], "bad"),
            bar("Missed", "there is no detection near it", counts["missed"], "bad"),
        ],
    }


def _name_error(kind: str) -> tuple[str, str]:
    """Label and note of a kind of error; a later version may know others."""
    return _ERRORS.get(kind, (kind, ""))


def confusion(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """The matrix with the background, or the most frequent confusions where there are too many classes."""
    analysis = document.get("analysis") or {}
    counts = {
        (item.get("truth"), item.get("detected")): item["count"] for item in analysis.get("confusions", ())
    }
    if not counts:
        return None
    names = [item["name"] for item in analysis["classes"]]
    if len(names) > _GRID_CLASSES:
        mistakes = [
            (*pair, count) for pair, count in counts.items() if None not in pair and pair[0] != pair[1]
        ]
        return {"mistakes": mistakes[:_CONFUSIONS]}
    labels = [*names, None]
    rows = []
    for truth in labels:
        values = [counts.get((truth, detected), 0) for detected in labels]
        total = sum(values) or 1
        rows.append({"name": truth, "cells": [(value, round(value / total, 3)) for value in values]})
    return {"labels": labels, "rows": rows}


def time_bars(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Seconds by phase, the longest first."""
    seconds = (document.get("time") or {}).get("seconds", {})
    total = sum(seconds.values()) or 1
    return [
        {
            "label": _PHASES.get(phase, phase),
            "text": duration(value),
            "percent": 100 * value / total,
            "kind": "good" if phase == TimePhase.TRAINING else "bad" if phase == TimePhase.LOST else "",
        }
        for phase, value in sorted(seconds.items(), key=lambda pair: -pair[1])
    ]


def memory_bars(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Megabytes by kind; what the peak has beyond the tensors of the state is activations and workspace."""
    known = document.get("memoryBytes") or {}
    peak = known.get("peak")
    if not peak:
        return []
    parts = {kind: known[kind] for kind in _MEMORY if kind in known}
    parts["rest"] = max(0, peak - sum(parts.values()))
    return [
        {"label": _MEMORY[kind], "text": f"{size / 2**20:,.0f} MB", "percent": 100 * size / peak, "kind": ""}
        for kind, size in parts.items()
    ]


def run_length(document: Mapping[str, Any]) -> str | None:
    """How long the run took, from its first start to its end."""
    run = document.get("run") or {}
    end = run.get("endTime") or run.get("updateTime")
    if not end:
        return None
    return duration((parse_time(end) - parse_time(run["startTime"])).total_seconds())


def pretty(value: Any) -> str:
    """A document as indented text."""
    return json.dumps(value, indent=2)


def duration(seconds: float) -> str:
    """A duration in its two leading units."""
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if days >= 1:
        return f"{int(days)} d {int(hours) % 24} h"
    if hours >= 1:
        return f"{int(hours)} h {int(minutes) % 60} min"
    return f"{int(minutes)} min {int(seconds) % 60} s" if minutes >= 1 else f"{seconds:.3g} s"


def _metric_series(evaluations: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Series]:
    return [
        Series(
            name=title_of(name),
            colour=number,
            dots=True,
            points=[
                (point["iteration"], point["metrics"][name])
                for point in evaluations
                if name in point["metrics"]
            ],
        )
        for number, name in enumerate(names)
    ]


def _loss_series(
    training: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]]
) -> Iterator[Series]:
    terms = dict.fromkeys(name for point in training for name in point["losses"])
    totals = [(point["iteration"], sum(point["losses"].values())) for point in training]
    yield Series(name="total", points=totals)
    validation = [
        (point["iteration"], point["metrics"][VALIDATION_LOSS])
        for point in evaluations
        if VALIDATION_LOSS in point["metrics"]
    ]
    yield Series(name="validation", points=validation, colour=1, dashed=True, dots=True)
    for number, term in enumerate(terms, start=2):
        points = [
            (point["iteration"], point["losses"][term]) for point in training if term in point["losses"]
        ]
        name = term.removeprefix("loss_").replace("_", " ")
        yield Series(name=name, points=points, colour=2 + (number - 2) % 6)


def _cell(value: float | None, form: str) -> tuple[str, float]:
    return ("-", -1.0) if value is None else (format(value, form), float(value))


def _point_headings(points: Sequence[str]) -> list[str]:
    names = {"threshold": "best score", "precision": "precision", "recall": "recall", "f1": "F1"}
    return [names[point] for point in points]


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"
