"""Shows a running job to a person: a bar on a terminal, a line for each change elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from kubedet_operator.api import conditions
from kubedet_operator.api.conditions import ConditionType
from kubedet_operator.api.status import DetectionJobStatus
from kubedet_trainer import contract

_WORTH_SAYING = (ConditionType.RESTARTING, ConditionType.DEGRADED)


class Follower(Protocol):
    """Receives the status repeatedly, and shows what has changed."""

    def update(self, status: DetectionJobStatus) -> None:
        """Show the newest status."""

    def say(self, text: str) -> None:
        """Show one line that stays."""


@contextmanager
def follow(console: Console) -> Iterator[Follower]:
    """The follower that suits `console`."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield _Bar(progress)


def describe(progress: contract.Progress) -> str:
    """Where the training is, without its stage and percentage."""
    if not progress.totalIterations:
        return ""
    parts = [f"epoch {progress.epoch}", f"iteration {progress.iteration}/{progress.totalIterations}"]
    if progress.estimatedRemainingSeconds is not None:
        minutes, seconds = divmod(progress.estimatedRemainingSeconds, 60)
        parts.append(f"{minutes}:{seconds:02d} left")
    return ", ".join(parts)


class Quiet:
    """A follower that shows nothing: somebody else shows this job."""

    def update(self, status: DetectionJobStatus) -> None:
        """Show nothing."""

    def say(self, text: str) -> None:
        """Say nothing."""


class _Lines:
    """One line for each new stage, percent or mishap."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: object = None
        self._mishaps = _Mishaps()

    def update(self, status: DetectionJobStatus) -> None:
        for text in self._mishaps.new(status):
            self.say(text)
        progress = status.progress
        if progress is None or (progress.stage, progress.percentage) == self._shown:
            return
        self._shown = (progress.stage, progress.percentage)
        where = f" {progress.percentage} %, {describe(progress)}" if progress.totalIterations else ""
        self.say(progress.stage.value + where)

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class _Bar:
    """A bar that fills with the iterations."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("Starting", total=None, text="")
        self._mishaps = _Mishaps()

    def update(self, status: DetectionJobStatus) -> None:
        for text in self._mishaps.new(status):
            self.say(text)
        progress = status.progress
        if progress is not None:
            self._progress.update(
                self._task,
                description=progress.stage.value,
                completed=progress.iteration,
                total=progress.totalIterations or None,
                text=describe(progress),
            )

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


class _Mishaps:
    """Conditions and stragglers that a person should hear of, each once."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}
        self._slow: str | None = None

    def new(self, status: DetectionJobStatus) -> Iterator[str]:
        slow = status.straggler.pod if status.straggler else None
        if slow != self._slow:
            self._slow = slow
            yield f"Straggler: {status.straggler or 'none any more'}"
        for condition_type in _WORTH_SAYING:
            condition = conditions.find_condition(status.conditions, condition_type)
            if condition is None or condition.status != "True":
                continue
            if self._said.get(condition.type) != condition.message:
                self._said[condition.type] = condition.message
                yield f"{condition.type}: {condition.message}"
