"""Terminal output: a progress bar during a run, and rows of the zoo as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

COLUMNS: dict[str, tuple[str, int]] = {
    "memoryGB": ("Mem (GB)", 2),
    "secondsPerIteration": ("s/iter", 3),
    "inferenceFps": ("FPS", 1),
    "inferenceFpsBatch8": ("FPS at 8", 1),
    "boxAP": ("Box AP", 1),
    "maskAP": ("Mask AP", 1),
    "ar1000": ("AR@1000", 1),
}
"""Figures of `contract.Results` that are a row of the zoo: heading and decimals."""


class ProgressBar:
    """The progress record of a run as one line that moves; use it as a context."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("{task.description:>13}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[iterations]}"),
            TextColumn("{task.fields[remaining]}"),
            console=console,
        )
        self._task = self._bar.add_task("Initializing", total=100, iterations="", remaining="")

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, record: Mapping[str, Any] | None) -> None:
        """Show `record`, the JSON of a `contract.ProgressRecord`; None changes nothing."""
        if record is None:
            return
        progress = record["progress"]
        total = progress.get("totalIterations", 0)
        remaining = progress.get("estimatedRemainingSeconds")
        self._bar.update(
            self._task,
            description=progress["stage"],
            completed=progress.get("percentage", 0),
            iterations=f"{progress.get('iteration', 0)}/{total}" if total else "",
            remaining=f"{duration(remaining)} left" if remaining is not None else "",
        )


class ImagesBar:
    """Passes over images as lines that move, only on a terminal; use it as a context."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("{task.description:>13}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> ImagesBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, name: str, done: int, total: int) -> None:
        """Show that `done` of the `total` images of the pass called `name` are done."""
        if name not in self._tasks:
            self._tasks[name] = self._bar.add_task(name, total=total)
        self._bar.update(self._tasks[name], completed=done)


def duration(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def zoo_table(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    """Rows of the zoo: a label and figures named as in `contract.Results`; all-empty columns are left out."""
    shown = [name for name in COLUMNS if any(figures.get(name) is not None for _, figures in rows)]
    table = Table("", box=None, pad_edge=False)
    for name in shown:
        table.add_column(COLUMNS[name][0], justify="right")
    for label, figures in rows:
        table.add_row(label, *(figure(name, figures.get(name)) for name in shown))
    return table


def comparison_table(figures: Mapping[str, Any], published: Mapping[str, Any], *, heading: str) -> Table:
    """The figures of a row, one on each line, with the published ones and their ratio."""
    table = Table("", box=None, pad_edge=False)
    for column in (heading, "published", "ratio"):
        table.add_column(column, justify="right")
    for name, (title, _) in COLUMNS.items():
        ours, theirs = figures.get(name), published.get(name)
        if ours is not None:
            ratio = f"{ours / theirs:.2f}" if theirs else ""
            table.add_row(title, figure(name, ours), figure(name, theirs), ratio)
    return table


def figure(name: str, value: float | None) -> str:
    """A figure with the decimals of its column; empty where there is none."""
    return "" if value is None else f"{value:.{COLUMNS[name][1]}f}"


def metrics_table(metrics: Mapping[str, float]) -> Table:
    """Every figure of an evaluation on a line of its own, in percent."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.1f}")
    return table
