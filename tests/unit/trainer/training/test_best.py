"""Which evaluation is the best, how long ago it was, and which checkpoint the row is that of."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry

from kubedet_trainer import config, recipes
from kubedet_trainer.contract import ReportedCheckpoint
from kubedet_trainer.dist import World
from kubedet_trainer.settings import CheckpointSettings, DatasetSettings, RunSettings
from kubedet_trainer.telemetry.metrics import Metrics
from kubedet_trainer.training import best, reported, setup
from kubedet_trainer.training.local_copy import copy_file
from kubedet_trainer.training.setup import Run
from kubedet_trainer.training.signals import StopRequest
from kubedet_trainer.training.snapshot import take_snapshot

MakeRun = Callable[..., Run]
_TINY = {
    "data.scale": "96,64",
    "data.num_workers": "0",
    "schedule.epochs": "8",
    "schedule.decay_epochs": "",
    "model.backbone.stem_channels": "8",
    "model.neck.channels": "16",
    "model.box_head.fc_channels": "16",
}


def evaluations(*values: float | None, metric: str = "boxAP") -> list[dict[str, Any]]:
    """One evaluation an epoch, of one iteration; None: without the metric."""
    return [
        {"iteration": number, "metrics": {} if value is None else {metric: value}}
        for number, value in enumerate(values, start=1)
    ]


@pytest.mark.parametrize(
    ("values", "since"),
    [
        ([], 0),
        ([10.0], 0),
        ([10.0, 9.0, 8.0], 2),
        ([10.0, 9.0, 11.0], 0),
        ([10.0, 10.0, 10.0], 2),
        ([None, 10.0, None, 9.0], 1),
        ([None, None], 0),
        ([math.nan, 10.0, 9.0], 1),
        ([10.0, math.nan, 9.0], 2),
        ([math.nan, math.nan], 0),
    ],
)
def test_only_a_greater_value_is_better(values: Sequence[float | None], since: int) -> None:
    assert best.evaluations_since_best(evaluations(*values), metric="boxAP") == since


def test_of_equal_evaluations_the_earlier_is_the_better() -> None:
    found = best.best_first(evaluations(9.0, 10.0, 10.0, None), metric="boxAP")
    assert [point["iteration"] for point in found] == [2, 3, 1]


@pytest.mark.parametrize("values", [(math.nan, 1.5, 1.0), (1.5, math.nan, 1.0), (1.5, math.inf, 1.0)])
def test_an_evaluation_whose_figure_is_not_finite_is_never_the_best(values: Sequence[float]) -> None:
    found = best.best_first(evaluations(*values, metric="validationLoss"), metric="validationLoss")
    assert [point["metrics"]["validationLoss"] for point in found] == [1.0, 1.5]


def test_evaluations_are_compared_by_the_metric_that_checkpoints_are_kept_by() -> None:
    settings = CheckpointSettings(uri="file:///c")
    assert best.metric_of(settings, "bbox") == best.metric_of(settings, "voc") == "boxAP"
    assert best.metric_of(settings, "proposal") == "ar1000"
    assert best.metric_of(replace(settings, keep_best_metric="maskAP"), "segm") == "maskAP"


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A run of 8 epochs of one iteration each, which `save` and `evaluations` stand for."""

    def make(**settings: Any) -> Run:
        recipe = config.apply_overrides(
            recipes.read_recipe("smoke_faster_rcnn"), {**_TINY, "global_batch": "4"}
        )
        return setup.prepare(
            RunSettings(
                recipe=recipe.name,
                dataset=DatasetSettings(uri="synthetic://shapes?images=4&val_images=2&size=96x64"),
                checkpoint=CheckpointSettings(uri=(tmp_path / "checkpoints").as_uri(), keep_last=1),
                work_directory=tmp_path / "work",
                **settings,
            ),
            recipe,
            world=World(device=torch.device("cpu")),
            stop=StopRequest(),
            metrics=Metrics(CollectorRegistry()),
        )

    return make


def train_to(run: Run, values: Sequence[float]) -> None:
    """Save and evaluate one epoch after the other; after epoch n all weights are n."""
    for value in values:
        run.state.iteration += 1
        for tensor in run.state.model.state_dict().values():
            tensor.fill_(run.state.iteration)
        epoch = run.length.epoch(run.state.iteration)
        run.checkpointer.save(take_snapshot(run.state, epoch=epoch, metrics={}))
        run.state.history.note_evaluation(run.state.iteration, {"boxAP": value})
        run.checkpointer.add_metrics(run.state.iteration, metrics={"boxAP": value})


def weights(run: Run) -> set[float]:
    return {float(value) for tensor in run.state.model.state_dict().values() for value in tensor.unique()}


def test_a_run_ends_early_after_as_many_evaluations_without_a_better_one(make_run: MakeRun) -> None:
    run = make_run(stop_after=2)
    train_to(run, [10.0, 12.25, 12.0])
    assert reported.early_end(run) is None
    train_to(run, [11.0])
    assert reported.early_end(run) == (
        "stopped after epoch 4 of 8: boxAP was not better than 12.2 (epoch 2) in 2 evaluations "
        "(evaluation.stopAfter)"
    )


def test_a_resumed_run_counts_on_where_it_was(make_run: MakeRun) -> None:
    train_to(make_run(stop_after=3), [10.0, 9.0])
    resumed = make_run(stop_after=3)
    assert resumed.state.iteration == 2
    train_to(resumed, [8.0])
    assert reported.early_end(resumed) is None
    again = make_run(stop_after=3)
    train_to(again, [7.0])
    assert "after epoch 4 of 8" in str(reported.early_end(again))


def test_a_run_that_reaches_its_last_iteration_does_not_end_early(make_run: MakeRun) -> None:
    run = make_run(stop_after=1)
    train_to(run, [10.0, *[9.0] * 7])
    assert reported.early_end(run) is None


def test_without_the_setting_a_run_goes_on(make_run: MakeRun) -> None:
    run = make_run()
    train_to(run, [10.0, 9.0, 8.0])
    assert reported.early_end(run) is None


def test_the_last_checkpoint_is_reported_unless_the_best_is_asked_for(make_run: MakeRun) -> None:
    run = make_run()
    train_to(run, [10.0, 12.0, 11.0])
    found = reported.load_reported(run)
    assert (found.checkpoint, found.iteration, found.epoch) == (ReportedCheckpoint.LAST, 3, 3)
    assert found.metrics == {"boxAP": 11.0}
    assert weights(run) == {3.0}


def test_the_best_checkpoint_outlives_the_others_and_its_weights_are_reported(make_run: MakeRun) -> None:
    run = make_run(report=ReportedCheckpoint.BEST)
    train_to(run, [10.0, 12.0, 11.0, 12.0, 3.0])
    found = reported.load_reported(run)
    assert (found.checkpoint, found.iteration, found.epoch) == (ReportedCheckpoint.BEST, 2, 2)
    assert found.metrics == {"boxAP": 12.0}
    assert weights(run) == {2.0}
    assert run.state.iteration == 5
    copy = copy_file(run.settings.work_directory)  # what was restored is gone
    assert list(copy.parent.iterdir()) == [copy]


def test_the_last_checkpoint_may_be_the_best(make_run: MakeRun) -> None:
    run = make_run(report=ReportedCheckpoint.BEST)
    train_to(run, [10.0, 12.0])
    found = reported.load_reported(run)
    assert (found.checkpoint, found.iteration) == (ReportedCheckpoint.BEST, 2)
    assert weights(run) == {2.0}


def test_a_best_checkpoint_that_is_gone_is_replaced_by_the_next_and_said_so(
    make_run: MakeRun, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(report=ReportedCheckpoint.BEST)
    train_to(run, [12.0, 11.0, 10.0])
    folder = run.settings.checkpoint.uri.removeprefix("file://")
    Path(folder, "step-00000001/state.pt").write_bytes(b"damaged")
    with caplog.at_level(logging.INFO):
        found = reported.load_reported(run)
    assert (found.iteration, found.epoch, found.metrics) == (3, 3, {"boxAP": 10.0})
    assert weights(run) == {3.0}
    assert "step-00000001/state.pt: is damaged" in caplog.text
    assert "the best checkpoint that there is, after epoch 3" in caplog.text
