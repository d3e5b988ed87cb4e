"""What a finished local run shows: the row of the zoo and where everything lies, or the root cause."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from rich.console import Console
from rich.table import Table

from kubedet_operator.api import conditions
from kubedet_operator.api.conditions import ConditionType
from kubedet_operator.api.status import DetectionJobStatus
from kubedet_operator.decision.facts import Facts
from kubedet_operator.decision.pods import read_termination
from kubedet_trainer import contract

_COLUMNS = (
    ("Mem (GB)", "memoryGB", ".2f"),
    ("S/iter", "secondsPerIteration", ".3f"),
    ("FPS", "inferenceFps", ".1f"),
    ("Box AP", "boxAP", ".1f"),
    ("AP50", "boxAP50", ".1f"),
    ("Mask AP", "maskAP", ".1f"),
    ("AR1000", "ar1000", ".1f"),
)
"""Heading, name of the figure, format; a figure that the recipe does not have is left out."""

_FILE = "file://"


def show_row(console: Console, *, recipe: str, results: contract.Results) -> None:
    """The row of the zoo, with the published one if there is one."""
    ours = _figures(results)
    columns = [column for column in _COLUMNS if column[1] in ours or column[1] in results.reference]
    table = Table("Recipe", *(heading for heading, _, _ in columns))
    for title, figures in ((recipe, ours), ("published", results.reference)):
        if figures:
            cells = (format(figures[name], form) if name in figures else "-" for _, name, form in columns)
            table.add_row(title, *cells)
    console.print(table)
    if results.task == contract.Task.MEASURE:
        _say(console, "measured, not trained")
    if results.checkpoint is not None:
        _say(console, f"{results.checkpoint} checkpoint, after epoch {results.epoch}")
    if results.endedEarly is not None:
        _say(console, results.endedEarly)
    about = results.hardware
    if about:
        _say(console, ", ".join(f"{name} {value}" for name, value in about.items()))


def show_places(console: Console, *, checkpoint_uri: str, status: DetectionJobStatus, output: Path) -> None:
    """Where the checkpoints, the report and the logs lie."""
    results = status.results or contract.Results()
    places = {
        "checkpoints": checkpoint_uri if _may_exist(checkpoint_uri) else None,
        "model": results.modelUri or (status.checkpoint.latest if status.checkpoint else None),
        "report": results.reportUri or _page(checkpoint_uri),
        "logs": str(output / "logs"),
    }
    lines = [(name, _readable(place)) for name, place in places.items() if place]
    for name, place in lines:
        _say(console, f"{name:<12} {place}")


def show_failure(console: Console, seen: Facts) -> None:
    """Why the job failed, and the last lines of the worker that failed first."""
    failed = conditions.find_condition(seen.status.conditions, ConditionType.FAILED)
    if failed is not None:
        _say(console, f"Failed ({failed.reason}): {failed.message}")
    culprit = seen.status.lastFailure.pod if seen.status.lastFailure else None
    for pod in seen.pods:
        if pod.name == culprit:
            failure = read_termination(pod).failure
            for line in failure.last_lines:
                _say(console, f"  {line}")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _figures(results: contract.Results) -> dict[str, float]:
    """Every figure of the row by name, the further metrics too."""
    told = {str(metric.get("name")): metric.get("value") for metric in results.metrics}
    further = {name: value for name, value in told.items() if isinstance(value, int | float)}
    own = {name: getattr(results, name, None) for _, name, _ in _COLUMNS}
    return further | {name: value for name, value in own.items() if value is not None}


def _page(checkpoint_uri: str) -> str | None:
    """The page of a run that has no results, if it was evaluated."""
    if not checkpoint_uri.startswith(_FILE):
        return None
    page = Path(_readable(checkpoint_uri), contract.REPORT_FILE)
    return str(page) if page.exists() else None


def _may_exist(place: str) -> bool:
    """Whether there is something at `place`; True where only a request could tell."""
    return not place.startswith(_FILE) or Path(_readable(place)).exists()


def _readable(place: str) -> str:
    """The path of a ``file://`` URI; any other URI as it is."""
    return unquote(place.removeprefix(_FILE)) if place.startswith(_FILE) else place
