"""What a finished local run shows."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from kubedet_operator.local import outcome
from kubedet_trainer import contract


def shown(results: contract.Results) -> list[str]:
    console = Console(file=io.StringIO(), width=100)
    outcome.show_row(console, recipe="smoke_rpn", results=results)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize(("checkpoint", "epoch"), [("Last", 12), ("Best", 4)])
def test_the_row_says_whose_figures_it_has_and_why_the_training_ended_early(
    checkpoint: str, epoch: int
) -> None:
    reason = "stopped after epoch 7 of 12: boxAP was not better than 41.2 (epoch 4) in 3 evaluations"
    results = contract.Results(boxAP=41.2, checkpoint=checkpoint, epoch=epoch, endedEarly=reason)
    assert shown(results)[-2:] == [f"{checkpoint} checkpoint, after epoch {epoch}", reason]


def test_further_figures_that_are_none_are_left_out() -> None:
    metrics: list[dict[str, object]] = [
        {"name": "boxAP50", "value": 61.2},
        {"a": 1},
        {"name": "ar1000", "value": "x"},
    ]
    row = "\n".join(shown(contract.Results(boxAP=41.2, metrics=metrics)))
    assert "61.2" in row
    assert "AR1000" not in row


def test_a_row_without_an_evaluation_is_that_of_no_checkpoint() -> None:
    assert "checkpoint" not in "\n".join(shown(contract.Results(memoryGB=1.5, epoch=3)))
