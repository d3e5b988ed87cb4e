"""The course of a run as one picture: losses above, accuracy below, over the same iterations."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

_TOTAL_COLOUR = "#1b1b1b"
_TERM_COLOURS = ("#3b78b4", "#e08b2c", "#4f9d57", "#b8474b", "#8667ad", "#7f6250", "#c977b4", "#6f6f6f")
_SHOWN = ("boxAP", "boxAP50", "boxAP75", "maskAP", "maskAP50", "ar100", "ar1000")
"""The figures of an evaluation that are drawn, those that there are."""


def draw_curves(
    *,
    title: str,
    training: Sequence[Mapping[str, Any]],
    evaluations: Sequence[Mapping[str, Any]],
    reference: Mapping[str, float],
) -> bytes:
    """A PNG of 1400 x 1000 pixels; `training` and `evaluations` are those of `state.History`.

    `reference` holds the published figures, drawn as dashed lines where the same name was evaluated.
    """
    figure = Figure(figsize=(10, 7.15), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    loss_axes, score_axes = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    figure.suptitle(title, fontsize=14, fontweight="bold")
    _draw_losses(loss_axes, training)
    _draw_scores(score_axes, evaluations, reference)
    score_axes.set_xlabel("iteration")
    score_axes.set_xlim(left=0)
    score_axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    for axes in (loss_axes, score_axes):
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=9, loc="best", framealpha=0.85, edgecolor="none", ncols=2)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _draw_losses(axes: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    axes.set_ylabel("loss")
    if not points:
        return
    iterations = [point["iteration"] for point in points]
    terms = list(points[-1]["losses"])
    totals = [sum(point["losses"].values()) for point in points]
    axes.plot(iterations, totals, color=_TOTAL_COLOUR, linewidth=1.8, label="total")
    for position, term in enumerate(terms):
        values = [point["losses"].get(term, float("nan")) for point in points]
        colour = _TERM_COLOURS[position % len(_TERM_COLOURS)]
        axes.plot(
            iterations,
            values,
            color=colour,
            linewidth=1.1,
            label=term.removeprefix("loss_").replace("_", " "),
        )
    axes.set_ylim(bottom=0)
    rate_axes = axes.twinx()
    rates = [point["lr"] for point in points]
    rate_axes.plot(iterations, rates, color="#9a9a9a", linewidth=0.9, linestyle=":")
    rate_axes.set_ylabel("learning rate (dotted)", color="#7a7a7a", fontsize=9)
    rate_axes.tick_params(colors="#7a7a7a", labelsize=8)
    rate_axes.set_ylim(bottom=0)
    rate_axes.spines[["top"]].set_visible(False)


def _draw_scores(axes: Axes, points: Sequence[Mapping[str, Any]], reference: Mapping[str, float]) -> None:
    axes.set_ylabel("validation, percent")
    axes.set_ylim(0, 100)
    for position, name in enumerate(
        name for name in _SHOWN if any(name in point["metrics"] for point in points)
    ):
        drawn = [point for point in points if name in point["metrics"]]
        colour = _TERM_COLOURS[position % len(_TERM_COLOURS)]
        values = [point["metrics"][name] for point in drawn]
        axes.plot(
            [point["iteration"] for point in drawn],
            values,
            color=colour,
            marker="o",
            markersize=4,
            label=f"{name} {values[-1]:.1f}",
        )
        if name in reference:
            axes.axhline(
                reference[name],
                color=colour,
                linestyle="--",
                linewidth=1,
                label=f"published {reference[name]:.1f}",
            )
