"""What local mode shows while it runs and when it has ended."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from builders import make_job
from kubedet_operator.api.conditions import ConditionType, set_condition
from kubedet_operator.api.status import DetectionJobStatus, FailureRecord, StragglerStatus
from kubedet_operator.decision.facts import Facts
from kubedet_operator.decision.pods import Ending, PodFacts
from kubedet_operator.local import outcome
from kubedet_operator.local.follow import describe, follow
from kubedet_trainer import contract

NOW = "2026-01-01T00:00:00Z"


def _shown(show: Callable[[Console], None], *, terminal: bool = False) -> str:
    stream = io.StringIO()
    show(Console(file=stream, width=160, force_terminal=terminal))
    return stream.getvalue()


def _progress(iteration: int, *, stage: contract.Stage = contract.Stage.TRAINING) -> DetectionJobStatus:
    return DetectionJobStatus(
        progress=contract.Progress(
            stage=stage,
            epoch=1,
            iteration=iteration,
            totalIterations=200,
            percentage=iteration // 2,
            estimatedRemainingSeconds=200 - iteration,
        )
    )


def test_elsewhere_than_on_a_terminal_each_change_is_one_line() -> None:
    def show(console: Console) -> None:
        with follow(console) as follower:
            initializing = contract.Progress(stage=contract.Stage.INITIALIZING)
            follower.update(DetectionJobStatus(progress=initializing))
            for iteration in (0, 1, 2, 2, 100):
                follower.update(_progress(iteration))
            follower.update(_progress(100, stage=contract.Stage.EVALUATING))

    assert _shown(show).splitlines() == [
        "Initializing",
        "Training 0 %, epoch 1, iteration 0/200, 3:20 left",
        "Training 1 %, epoch 1, iteration 2/200, 3:18 left",
        "Training 50 %, epoch 1, iteration 100/200, 1:40 left",
        "Evaluating 50 %, epoch 1, iteration 100/200, 1:40 left",
    ]


def test_on_a_terminal_there_is_a_bar() -> None:
    def show(console: Console) -> None:
        with follow(console) as follower:
            follower.update(_progress(100))

    shown = _shown(show, terminal=True)
    assert "50%" in shown
    assert "iteration 100/200" in shown


def test_a_restart_is_told_once() -> None:
    conditions = set_condition(
        (),
        ConditionType.RESTARTING,
        True,
        reason="WorkerFailed",
        message="worker 0 died",
        generation=1,
        now=NOW,
    )

    def show(console: Console) -> None:
        with follow(console) as follower:
            for _ in range(3):
                follower.update(DetectionJobStatus(conditions=conditions))

    assert _shown(show).splitlines() == ["Restarting: worker 0 died"]


def test_a_straggler_is_told_when_it_comes_and_when_it_goes() -> None:
    slow = StragglerStatus(rank=3, pod="demo-worker-1", ratio=1.8, since=NOW)

    def show(console: Console) -> None:
        with follow(console) as follower:
            for straggler in (None, slow, replace(slow, ratio=1.9), None, None):
                follower.update(DetectionJobStatus(straggler=straggler))

    assert _shown(show).splitlines() == [
        "Straggler: all ranks wait for rank 3 in demo-worker-1, whose forward passes take 1.8 times as long "
        "as those of the median rank",
        "Straggler: none any more",
    ]


def test_before_training_there_is_nothing_to_describe() -> None:
    assert describe(contract.Progress(stage=contract.Stage.INITIALIZING)) == ""


def test_the_row_has_the_figures_there_are_and_the_published_ones() -> None:
    results = contract.Results(
        memoryGB=1.5,
        boxAP=37.25,
        metrics=[{"name": "boxAP50", "value": 58.13}],
        reference={"boxAP": 36.4, "memoryGB": 3.8},
        hardware={"worldSize": 2},
    )
    shown = _shown(lambda console: outcome.show_row(console, recipe="faster", results=results))
    for text in ("faster", "37.2", "58.1", "published", "36.4", "3.80", "worldSize 2"):
        assert text in shown
    assert "Mask AP" not in shown


def test_the_places_include_the_page_of_a_run_that_did_not_finish(tmp_path: Path) -> None:
    def places() -> list[list[str]]:
        shown = _shown(
            lambda console: outcome.show_places(
                console,
                checkpoint_uri=f"file://{tmp_path}",
                status=DetectionJobStatus(),
                output=Path("/out"),
            )
        )
        return [line.split() for line in shown.splitlines()]

    assert places() == [["checkpoints", f"file://{tmp_path}"[7:]], ["logs", "/out/logs"]]
    (tmp_path / "report.html").touch()
    assert ["report", str(tmp_path / "report.html")] in places()


def test_a_failure_shows_its_root_cause_and_the_last_lines() -> None:
    message = contract.dump_termination_message(
        failure=contract.Failure(
            exitCode=96, reason="LossNotFinite", message="loss is NaN", lastLines=["at 7"]
        )
    )
    time = datetime(2026, 1, 1, tzinfo=UTC)
    pod = PodFacts(
        name="demo-worker-0",
        uid="1",
        job="demo",
        created=time,
        phase="Failed",
        ending=Ending(exit_code=96, reason="Error", message=message, time=time),
    )
    status = DetectionJobStatus(
        conditions=set_condition(
            (),
            ConditionType.FAILED,
            True,
            reason="PermanentFailure",
            message="loss is NaN",
            generation=1,
            now=NOW,
        ),
        lastFailure=FailureRecord(time=NOW, class_="Permanent", reason="LossNotFinite", pod="demo-worker-0"),
    )
    job = make_job()
    seen = Facts(metadata=job.metadata, status=status, job=job, pods=(pod,), now=time)
    shown = _shown(lambda console: outcome.show_failure(console, seen))
    assert shown.splitlines() == ["Failed (PermanentFailure): loss is NaN", "  at 7"]
