"""Shows the table of a zoo: live on a terminal, elsewhere a line for each row that turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from rich.console import Console
from rich.live import Live
from rich.table import Column, Table

from kubedet_operator.api import conditions
from kubedet_operator.api.conditions import ConditionType
from kubedet_operator.api.zoo import decode_zoo_status
from kubedet_operator.api.zoo_status import ModelZooStatus, Row

Show = Callable[[Mapping[str, Any], Mapping[str, int]], None]
"""Receives the newest status, and the percentage of each job that runs."""

_COLUMNS = (
    ("Mem (GB)", "memoryGB", ".2f"),
    ("S/iter", "secondsPerIteration", ".3f"),
    ("FPS", "inferenceFps", ".1f"),
    ("Box AP", "boxAP", ".1f"),
    ("Mask AP", "maskAP", ".1f"),
    ("AR1000", "ar1000", ".1f"),
)
"""Heading, name of the figure, format; figures that no row has are left out."""


@contextmanager
def follow_table(console: Console) -> Iterator[Show]:
    """The way to show a table that suits `console`."""
    if not console.is_terminal:
        shown: dict[str, str] = {}

        def say(status: Mapping[str, Any], progress: Mapping[str, int]) -> None:
            for row in decode_zoo_status({"status": status}).rows:
                text = _describe(row)
                if shown.get(row.recipe) != text:
                    shown[row.recipe] = text
                    console.print(f"{row.recipe}: {text}", markup=False, highlight=False, soft_wrap=True)

        yield say
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield lambda status, progress: live.update(_build(decode_zoo_status({"status": status}), progress))


def show_table(console: Console, status: ModelZooStatus) -> None:
    """The table as it is in the end, and where its page is."""
    console.print(_build(status, {}))
    page = conditions.find_condition(status.conditions, ConditionType.PAGE_WRITTEN)
    if page is not None and page.status != "True":
        console.print(page.message, markup=False, highlight=False, soft_wrap=True)
    elif status.reportUri is not None:
        console.print(f"page: {_as_path(status.reportUri)}", markup=False, highlight=False, soft_wrap=True)


def _as_path(uri: str) -> str:
    return unquote(urlsplit(uri).path) if uri.startswith("file:") else uri


def _describe(row: Row) -> str:
    figures = ", ".join(f"{name} {value:g}" for name, value in row.means.items())
    said = next((run.message for run in row.runs if run.message), None)
    return " ".join(part for part in (row.phase.value, figures, f"({said})" if said else "") if part)


def _build(status: ModelZooStatus, progress: Mapping[str, int]) -> Table:
    columns = [column for column in _COLUMNS if any(column[1] in row.means for row in status.rows)]
    compared = any(row.differences for row in status.rows)
    headings = [heading for heading, _, _ in columns] + ["Difference"] * compared
    names = (Column(heading, no_wrap=True) for heading in ("Recipe", "Phase"))
    table = Table(*names, *headings, box=None, pad_edge=False, collapse_padding=True)
    for row in status.rows:
        running = [f"{progress[run.job]} %" for run in row.runs if run.job in progress]
        phase = f"{row.phase.value} {', '.join(running)}" if row.phase.value == "Running" else row.phase.value
        cells = (_cell(row, name, form) for _, name, form in columns)
        differences = ", ".join(f"{value:+.1f}" for value in row.differences.values())
        table.add_row(row.recipe, phase, *cells, *([differences] if compared else []))
    return table


def _cell(row: Row, name: str, form: str) -> str:
    if name not in row.means:
        return ""
    spread = f" ±{row.spread[name]:{form}}" if name in row.spread else ""
    return f"{row.means[name]:{form}}{spread}"
