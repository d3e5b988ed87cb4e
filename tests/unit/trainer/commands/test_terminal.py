"""Tables and the bar that a person sees."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from kubedet_trainer.commands import terminal


def render(item: object) -> list[str]:
    output = io.StringIO()
    Console(file=output, width=100).print(item)
    return output.getvalue().splitlines()


def test_row_of_the_zoo_has_its_decimals_and_no_empty_column() -> None:
    published = {"memoryGB": 5.1, "boxAP": 36.4}
    ours = {"memoryGB": 4.25, "secondsPerIteration": 0.5, "boxAP": 36.36, "maskAP": None}
    heading, first, second = render(terminal.zoo_table([("mine", ours), ("published", published)]))
    assert heading.split() == ["Mem", "(GB)", "s/iter", "Box", "AP"]
    assert first.split() == ["mine", "4.25", "0.500", "36.4"]
    assert second.split() == ["published", "5.10", "36.4"]


def test_every_figure_of_an_evaluation_is_a_line() -> None:
    lines = render(terminal.metrics_table({"boxAP": 12.34, "boxAP50": 56.0}))
    assert [line.split() for line in lines] == [["boxAP", "12.3"], ["boxAP50", "56.0"]]


@pytest.mark.parametrize(("seconds", "text"), [(5, "0:05"), (125, "2:05"), (3723, "1:02:03")])
def test_durations_read_as_clocks(seconds: float, text: str) -> None:
    assert terminal.duration(seconds) == text


def test_bar_shows_stage_iterations_and_what_remains() -> None:
    output = io.StringIO()
    with terminal.ProgressBar(Console(file=output, width=100, force_terminal=True)) as bar:
        bar.update(None)
        bar.update({"progress": {"stage": "Initializing"}})
        bar.update(
            {
                "progress": {
                    "stage": "Training",
                    "iteration": 30,
                    "totalIterations": 120,
                    "percentage": 25,
                    "estimatedRemainingSeconds": 90,
                }
            }
        )
    shown = output.getvalue()
    for text in ("Training", "30/120", "25%", "1:30 left"):
        assert text in shown
