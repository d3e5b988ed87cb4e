"""What a run reports: the progress record, the metrics, the log lines, the curves."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry

from kubedet_trainer import contract
from kubedet_trainer.contract import CheckpointStatus, Stage, Straggler
from kubedet_trainer.dist import World
from kubedet_trainer.telemetry import memory, report
from kubedet_trainer.telemetry.metrics import TABLE, Metrics
from kubedet_trainer.telemetry.recovery import RankTimes
from kubedet_trainer.telemetry.report import Interval, Reporter, TrainingLength

CHECKPOINT = CheckpointStatus(
    latest="s3://b/step-00000010",
    iteration=10,
    time="2026-01-01T00:00:00Z",
    sizeBytes=5,
    saveSeconds=2.0,
    stallSeconds=1.0,
)


class Clock:
    """Time that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._offset = 1e9

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + self._offset

    def set(self, *, forward: float) -> None:
        """Somebody sets the clock of the machine."""
        self._offset += forward


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(report, "time", clock)
    return clock


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def _reporter(folder: Path, registry: CollectorRegistry, *, rank: int = 0, restarts: int = 1) -> Reporter:
    world = World(rank=rank, size=4, local_rank=rank, device=torch.device("cpu"), restarts=restarts)
    return Reporter(world=world, work_directory=folder, metrics=Metrics(registry))


def _progress(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "progress.json").read_text())
    return document


def test_progress_says_where_the_run_is_and_when_it_ends(
    tmp_path: Path, registry: CollectorRegistry, clock: Clock
) -> None:
    reporter = _reporter(tmp_path, registry)
    assert _progress(tmp_path) == {
        "progress": {
            "stage": "Initializing",
            "epoch": 0,
            "iteration": 0,
            "totalIterations": 0,
            "percentage": 0,
            "time": {"since": "2001-09-09T02:03:20.000Z", "iterations": 0, "seconds": {}},
        },
        "worldSize": 4,
        "processRestarts": 1,
    }
    reporter.begin(TrainingLength(total_iterations=40, iterations_per_epoch=10, evaluations=4), iteration=10)
    reporter.set_stage(Stage.TRAINING)
    for iteration in range(11, 21):
        clock.now += 2.0
        reporter.record_iteration(iteration, images=8, seconds=2.0, data_wait_seconds=0.5)
    progress = _progress(tmp_path)["progress"]
    assert (progress["stage"], progress["epoch"], progress["iteration"]) == ("Training", 2, 20)
    assert (progress["totalIterations"], progress["percentage"]) == (40, 50)
    assert progress["estimatedRemainingSeconds"] == 40
    assert progress["goodputPercent"] == 75
    assert progress["lastProgressTime"] == "2001-09-09T02:03:40Z"

    with reporter.stage(Stage.EVALUATING):
        assert _progress(tmp_path)["progress"]["stage"] == "Evaluating"
        clock.now += 10
    assert _progress(tmp_path)["progress"]["stage"] == "Training"
    assert _progress(tmp_path)["progress"]["estimatedRemainingSeconds"] == 60
    reporter.record_checkpoint(CHECKPOINT)
    assert _progress(tmp_path)["checkpoint"]["latest"] == "s3://b/step-00000010"


def test_a_straggler_is_in_the_progress_until_it_is_fast_or_the_run_is_done(
    tmp_path: Path, registry: CollectorRegistry, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    def told(found: Straggler | None) -> Any:
        reporter.record_straggler(found)
        clock.now += 2
        reporter.record_iteration(1, images=8, seconds=2.0, data_wait_seconds=0.5)
        return _progress(tmp_path).get("straggler")

    reporter = _reporter(tmp_path, registry)
    slow = Straggler(rank=5, replica=1, ratio=1.8, since="2026-01-01T00:00:00Z")
    with caplog.at_level(logging.INFO):
        assert told(slow) == {"rank": 5, "replica": 1, "ratio": 1.8, "since": "2026-01-01T00:00:00Z"}
        assert told(replace(slow, ratio=1.9))["ratio"] == 1.9
        assert told(None) is None
        assert told(slow) is not None
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING"]
    reporter.set_stage(Stage.DONE)
    assert "straggler" not in _progress(tmp_path)


def test_every_second_of_rank_0_goes_into_one_phase(
    tmp_path: Path, registry: CollectorRegistry, clock: Clock
) -> None:
    reporter = _reporter(tmp_path, registry, restarts=0)
    clock.now += 4  # data, model
    clock.now += 3
    reporter.record_restore(seconds=3.0, status=CHECKPOINT)
    reporter.begin(TrainingLength(total_iterations=40, iterations_per_epoch=10, evaluations=4), iteration=10)
    clock.now += 1
    reporter.set_stage(Stage.TRAINING)
    for iteration in range(11, 21):
        clock.now += 2
        reporter.record_iteration(iteration, images=8, seconds=2.0, data_wait_seconds=0.5)
    with reporter.stage(Stage.CHECKPOINTING):
        clock.now += 6
    with reporter.stage(Stage.EVALUATING):
        clock.now += 12
        reporter.record_evaluation(20, metrics={"boxAP": 37.5})
    with reporter.stage(Stage.BENCHMARKING):
        clock.now += 5
    reporter.set_stage(Stage.DONE)
    spent = _progress(tmp_path)["progress"]["time"]
    assert spent == {
        "since": "2001-09-09T02:03:20.000Z",
        "iterations": 10,
        "seconds": {
            "starting": 5.0,
            "restoring": 3.0,
            "training": 15.0,
            "data_wait": 5.0,
            "checkpoint_stall": 6.0,
            "evaluating": 17.0,
        },
    }
    assert sum(spent["seconds"].values()) == clock.now - 1000
    assert _progress(tmp_path)["progress"]["goodputPercent"] == round(100 * 15 / 51)


def test_restarted_rank_0_continues_the_count(
    tmp_path: Path, registry: CollectorRegistry, clock: Clock
) -> None:
    first = _reporter(tmp_path, registry, restarts=0)
    first.set_stage(Stage.TRAINING)
    clock.now += 10
    first.record_iteration(1, images=8, seconds=10.0, data_wait_seconds=1.0)
    clock.now += 7  # nothing tells what went into these
    clock.set(forward=3600)
    second = _reporter(tmp_path, CollectorRegistry())
    clock.now += 2
    second.record_restore(seconds=2.0, status=CHECKPOINT)
    clock.now += 3
    second.set_stage(Stage.TRAINING)
    clock.now += 10
    second.record_iteration(1, images=8, seconds=10.0, data_wait_seconds=0.0)
    assert _progress(tmp_path)["progress"]["time"] == {
        "since": "2001-09-09T02:03:20.000Z",
        "iterations": 2,
        "seconds": {"training": 19.0, "data_wait": 1.0, "restarting": 10.0, "restoring": 2.0},
    }


def test_progress_is_written_at_most_once_a_second(
    tmp_path: Path, registry: CollectorRegistry, clock: Clock
) -> None:
    reporter = _reporter(tmp_path, registry)
    reporter.begin(TrainingLength(total_iterations=100, iterations_per_epoch=100, evaluations=1), iteration=0)
    seen = set()
    for iteration in range(1, 31):
        clock.now += 0.25
        reporter.record_iteration(iteration, images=1, seconds=0.25, data_wait_seconds=0)
        seen.add(_progress(tmp_path)["progress"]["iteration"])
    assert len(seen) == 7


def test_only_rank_0_writes_progress_and_counts_iterations(
    tmp_path: Path, registry: CollectorRegistry
) -> None:
    reporter = _reporter(tmp_path, registry, rank=1)
    reporter.record_iteration(1, images=8, seconds=2.0, data_wait_seconds=0.5)
    assert not (tmp_path / contract.PROGRESS_FILE).exists()
    assert registry.get_sample_value("kubedet_trainer_iterations_total") == 0
    assert registry.get_sample_value("kubedet_trainer_images_total") == 8


def test_only_a_step_is_expected_to_end_soon(tmp_path: Path, registry: CollectorRegistry) -> None:
    world = World(rank=3, size=4, local_rank=3, device=torch.device("cpu"))
    reporter = Reporter(
        world=world, work_directory=tmp_path, metrics=Metrics(registry), hang_median_steps=100
    )
    reporter.record_iteration(1, images=2, seconds=1.5, data_wait_seconds=0.0)
    (file,) = (tmp_path / "heartbeats" / "touched").iterdir()
    assert file.read_text() == "150.0"
    with reporter.stage(Stage.EVALUATING):
        assert file.read_text() == ""


def test_every_metric_of_the_api_is_recorded_under_its_name(
    tmp_path: Path, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "gpu_bytes", lambda _: {"allocated": 7.0})
    world = World(rank=0, size=1, local_rank=0, device=torch.device("cuda", 0))
    (tmp_path / contract.RECOVERY_FILE).write_text('{"notice": 1.0, "stop": 2.0, "rendezvous": 3.0}')
    reporter = Reporter(
        world=world, work_directory=tmp_path, metrics=Metrics(registry), start=RankTimes(tmp_path)
    )
    monkeypatch.setattr(memory, "peak_bytes", lambda _: 2**30)
    reporter.record_iteration(1, images=16, seconds=0.25, data_wait_seconds=0.125)
    reporter.record_interval(
        Interval(
            iteration=1,
            losses={"loss_cls": 0.5},
            lr=0.02,
            seconds_per_iteration=0.25,
            data_wait_seconds=0.125,
            forward_seconds=0.0625,
        )
    )
    reporter.record_checkpoint(CHECKPOINT)
    reporter.record_checkpoint_failure()
    reporter.record_reference({"imagesPerSecond": 30.0})
    before = {"boxAP": 36.0, "boxAPs": 21.0}
    reporter.record_restore(seconds=3.0, status=CHECKPOINT, evaluation=before)
    reporter.record_evaluation(1, metrics={"boxAP": 37.5})
    expected = {
        ("iterations_total", None): 1,
        ("images_total", None): 16,
        ("iteration_duration_seconds_sum", None): 0.25,
        ("data_wait_seconds_total", None): 0.125,
        ("loss", ("term", "loss_cls")): 0.5,
        ("learning_rate", None): 0.02,
        ("gpu_memory_bytes", ("kind", "allocated")): 7,
        ("checkpoint_save_seconds", None): 2,
        ("checkpoint_stall_seconds", None): 1,
        ("checkpoint_restore_seconds", None): 3,
        ("checkpoint_bytes", None): 5,
        ("checkpoint_failures_total", None): 1,
        ("recovery_seconds", ("phase", "step")): 0.25,
        ("forward_seconds", ("local_rank", "0")): 0.0625,
        ("reference", ("metric", "imagesPerSecond")): 30,
        ("evaluation", ("metric", "boxAP")): 37.5,
        ("evaluation", ("metric", "boxAPs")): 21.0,
    }
    for (name, label), value in expected.items():
        labels = dict([label]) if label else {}
        assert registry.get_sample_value(f"kubedet_trainer_{name}", labels) == value, name
    assert (registry.get_sample_value("kubedet_trainer_last_step_timestamp_seconds") or 0) > 1.7e9
    recovery = _progress(tmp_path)["progress"]["recovery"]["seconds"]
    assert (recovery["notice"], recovery["rendezvous"], recovery["step"]) == (0.0, 1.0, 0.25)
    recorded = {name.removesuffix("_total").removesuffix("_sum") for name, _ in expected}
    assert recorded | {"last_step_timestamp_seconds"} == set(TABLE)


def test_a_log_line_reads_well_and_carries_its_figures(
    tmp_path: Path, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    reporter = _reporter(tmp_path, registry)
    reporter.begin(TrainingLength(total_iterations=400, iterations_per_epoch=100, evaluations=4), iteration=0)
    reporter.record_iteration(150, images=8, seconds=2.0, data_wait_seconds=0.5)
    interval = Interval(
        iteration=150,
        losses={"loss_rpn_cls": 0.25, "loss_reg": 0.5},
        lr=0.02,
        seconds_per_iteration=2.0,
        data_wait_seconds=0.5,
    )
    with caplog.at_level(logging.INFO):
        reporter.record_interval(interval)
    assert (
        "epoch 2/4  iteration 150/400  loss 0.7500 (rpn_cls 0.2500 reg 0.5000)  lr 0.02  2.000 s/it"
        in caplog.text
    )
    assert "eta 0:08:20" in caplog.text
    assert vars(caplog.records[-1])["losses"] == {"loss_rpn_cls": 0.25, "loss_reg": 0.5}
