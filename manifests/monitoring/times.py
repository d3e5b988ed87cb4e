"""The panel of where jobs spend their time, for both dashboards."""

from __future__ import annotations

from monitoring.panels import Panel, Target
from monitoring.queries import CHOSEN_JOBS

_TRAINING = 'phase="training"'
_COLOURS = {
    "training": "green",
    "evaluating": "blue",
    "pending": "#8e8e8e",
    "starting": "#b0b0b0",
    "restoring": "purple",
    "data_wait": "yellow",
    "checkpoint_stall": "orange",
    "suspended": "#6e6e6e",
    "restarting": "#c4162a",
    "lost": "red",
}
"""Colours of the phases of a job's time: green for training, red for the cost of failures."""


def build_panel(description: str, *, width: int) -> Panel:
    """The shares of all phases, which add up to 100 %."""
    return Panel(
        title="Where time goes",
        description=description,
        unit="percentunit",
        width=width,
        stacked=True,
        bounds=(0, 1),
        colours=_COLOURS,
        targets=(Target(expr=f"{_shares('phase')} / on () group_left () {_shares('')}", legend="{{phase}}"),),
    )


def goodput(by: str) -> str:
    """The share of training in the time of jobs, by labels."""
    return f"{_shares(by, _TRAINING)} / {_shares(by)}"


def _shares(by: str, *matchers: str) -> str:
    """Seconds of jobs' lives by phase.

    Rank 0's seconds arrive with the statuses, minutes apart in a long training, so the window is longer.
    """
    return f"sum by ({by}) (increase({CHOSEN_JOBS.job('time', *matchers)}[15m]))"
