"""A zoo whose rows end one after the other, for `fleet_history`."""

from __future__ import annotations

from statistics import fmean, stdev
from typing import Any

NAME = "nightly"
ROWS = {
    "mask_rcnn_r50_fpn_1x": {"boxAP": (37.5, 37.3), "maskAP": (34.1, 34.2)},
    "retinanet_r50_fpn_1x": {"boxAP": (35.4, 35.6)},
    "rpn_r50_fpn_1x": {"ar1000": (57.0, 57.1)},
    "faster_rcnn_r50_fpn_1x": {"boxAP": (36.6, 36.4)},
    "ssd300_coco": {"boxAP": (25.2, 25.7)},
    "cascade_rcnn_r50_fpn_1x": {"boxAP": (40.6, 40.4)},
}
"""Ours and published, by recipe and figure."""
FAILED = "ssd300_coco"


def build_zoo(namespace: str, *, share: float) -> dict[str, Any]:
    """The manifest when this share of the rows has ended."""
    ended = int(min(1.0, 1.1 * share) * (len(ROWS) - 1))  # the last but one some minutes before the end
    rows = [_build_row(recipe, number, ended) for number, recipe in enumerate(ROWS)]
    phases = [row["phase"] for row in rows]
    status = {
        "phase": "Running",
        "counts": {
            "total": len(rows),
            **{phase: phases.count(phase.title()) for phase in ("pending", "running", "succeeded", "failed")},
        },
        "differences": {metric: _summarise(rows, metric) for metric in ("boxAP", "maskAP") if ended > 1},
        "rows": rows,
        "conditions": [{"type": "PageWritten", "status": "False", "reason": "PageFailed"}] if ended else [],
    }
    return {"metadata": {"namespace": namespace, "name": NAME}, "spec": {}, "status": status}


def _build_row(recipe: str, number: int, ended: int) -> dict[str, Any]:
    figures = ROWS[recipe]
    row: dict[str, Any] = {
        "recipe": recipe,
        "phase": "Running" if number == ended else "Pending",
        "published": {metric: published for metric, (_, published) in figures.items()},
    }
    if number >= ended:
        return row
    if recipe == FAILED:
        return {**row, "phase": "Failed"}
    differences = {metric: round(ours - published, 3) for metric, (ours, published) in figures.items()}
    means = {metric: ours for metric, (ours, _) in figures.items()}
    return {**row, "phase": "Succeeded", "means": means, "differences": differences, "verdict": "Equal"}


def _summarise(rows: list[dict[str, Any]], metric: str) -> dict[str, float]:
    found = [row["differences"][metric] for row in rows if metric in row.get("differences", {})]
    error = {"standardError": stdev(found) / len(found) ** 0.5} if len(found) > 1 else {}
    return {"mean": fmean(found), "rows": len(found), **error}
