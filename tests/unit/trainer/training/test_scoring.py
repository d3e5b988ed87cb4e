"""Training continues while an evaluation is scored, whose figures stay those of the weights evaluated."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorboardX  # noqa: F401 (it sets environment variables when first imported)
import torch

from kubedet_trainer.contract import ReportedCheckpoint
from kubedet_trainer.data.splits import Split
from kubedet_trainer.errors import HelperKilled, MissingInput, TerminatedSaved
from kubedet_trainer.evaluation.coco import build_scorer
from kubedet_trainer.evaluation.detections import DetectionTable
from kubedet_trainer.structures import Batch
from kubedet_trainer.training import loop, reported, results, scored
from kubedet_trainer.training.scored import Request, Scored
from kubedet_trainer.training.scorer import MODULE, ScorerProcess
from kubedet_trainer.training.setup import Run

MakeRun = Callable[..., Run]

EPOCH, TOTAL = 4, 8
"""Iterations."""


class Held:
    """A process that scores as soon as somebody waits for it, or asks `polls` times."""

    polls = 10**9
    is_in_time = True
    made: list[Held]

    def __init__(self, request: Request, *, folder: Path) -> None:
        self._request = request
        self._polls = 0
        self.is_killed = False
        self.made.append(self)

    def wait(self, seconds: float | None = None) -> bool:
        return seconds is None or self.is_in_time

    def has_ended(self) -> bool:
        self._polls += 1
        return self._polls >= self.polls

    def cpu_seconds(self) -> float:
        return 0.0

    def result(self) -> Scored:
        return scored.score(self._request)

    def kill(self) -> None:
        self.is_killed = True


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> type[Held]:
    class Own(Held):
        made: list[Held] = []  # noqa: RUF012 (a list of this test)

    monkeypatch.setattr(results, "ScorerProcess", Own)
    return Own


@pytest.fixture
def training(make_run: MakeRun) -> Callable[..., Run]:
    """A run of two epochs that is evaluated after each, and saves after every iteration if it may."""

    def make(**settings: Any) -> Run:
        run = make_run(**{"global_batch": "2", "schedule.epochs": "2", "schedule.decay_epochs": ""})
        assert run.length.iterations_per_epoch == EPOCH
        checkpoint = replace(run.settings.checkpoint, interval_iterations=1)
        run.settings = replace(run.settings, checkpoint=checkpoint, **settings)
        return run

    return make


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is known when each step begins."""
    seen: list[dict[str, Any]] = []
    step = loop._step

    def note(run: Run, batches: Iterator[Batch]) -> None:
        seen.append({
            "iteration": run.state.iteration,
            "evaluated": [point["iteration"] for point in run.state.history.evaluations],
            "copied": run.copied_iteration,
        })  # fmt: skip
        step(run, batches)

    monkeypatch.setattr(loop, "_step", note)
    return seen


def fit(run: Run) -> None:
    loop._fit(run)
    assert run.saver.wait(30)


def state_of(run: Run, iteration: int) -> dict[str, Any]:
    folder = Path(run.settings.checkpoint.uri.removeprefix("file://"))
    state: dict[str, Any] = torch.load(folder / f"step-{iteration:08d}/state.pt", weights_only=True)
    return state


def test_training_continues_and_the_figures_are_those_of_the_weights_that_were_evaluated(
    training: Callable[..., Run], held: type[Held], steps: list[dict[str, Any]]
) -> None:
    held.polls = 2
    run = training()
    fit(run)
    evaluated = [step["evaluated"] for step in steps]
    assert evaluated == [[]] * 7 + [[EPOCH]]
    points = run.state.history.evaluations
    assert [point["iteration"] for point in points] == [EPOCH, TOTAL]
    assert [point["iteration"] for point in run.state.history.spent] == [EPOCH, TOTAL]
    folder = Path(run.settings.checkpoint.uri.removeprefix("file://"))
    manifests = [json.loads((folder / f"step-{n:08d}/manifest.json").read_text()) for n in (EPOCH, TOTAL)]
    assert [manifest["metrics"] for manifest in manifests] == [point["metrics"] for point in points]
    assert points[0]["metrics"]["validationLoss"] != points[1]["metrics"]["validationLoss"]


def test_no_state_is_saved_without_an_evaluation_before_it(
    training: Callable[..., Run], held: type[Held], steps: list[dict[str, Any]]
) -> None:
    run = training()
    fit(run)
    assert [step["copied"] for step in steps[EPOCH:]] == [EPOCH] * 4
    found = state_of(run, TOTAL)["history"]["evaluations"]
    assert [point["iteration"] for point in found] == [EPOCH]
    assert [step["evaluated"] for step in steps] == [[]] * TOTAL


def test_an_evaluation_that_a_crash_cut_off_is_repeated(
    training: Callable[..., Run], held: type[Held], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = training()
    step = loop._step

    def crash(run: Run, batches: Iterator[Batch]) -> None:
        if run.state.iteration == EPOCH + 2:
            raise RuntimeError("the end")
        step(run, batches)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_step", crash)
        with pytest.raises(RuntimeError, match="the end"):
            loop._fit(run)
    assert run.saver.wait(30)
    again = training()
    assert (again.state.iteration, again.state.history.evaluations) == (EPOCH, [])
    fit(again)
    assert [point["iteration"] for point in again.state.history.evaluations] == [EPOCH, TOTAL]


@pytest.mark.parametrize("is_in_time", [True, False])
def test_a_stopped_training_waits_some_seconds_for_figures_and_says_which_it_left_out(
    training: Callable[..., Run],
    held: type[Held],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_in_time: bool,
) -> None:
    held.is_in_time = is_in_time
    run = training()
    step = loop._step

    def stop(run: Run, batches: Iterator[Batch]) -> None:
        run.stop.requested = run.state.iteration >= EPOCH
        step(run, batches)

    monkeypatch.setattr(loop, "_step", stop)
    with caplog.at_level(logging.WARNING), pytest.raises(TerminatedSaved):
        loop._fit(run)
    (process,) = held.made
    saved = state_of(run, EPOCH + 2)["history"]["evaluations"]
    assert [point["iteration"] for point in saved] == [EPOCH] * is_in_time
    assert ("the evaluation of iteration 4 was scored; its figures are left out" in caplog.text) != is_in_time
    assert process.is_killed != is_in_time


def test_training_waits_for_figures_that_may_end_it(
    training: Callable[..., Run], held: type[Held], steps: list[dict[str, Any]]
) -> None:
    fit(training(stop_after=1))
    assert steps[EPOCH]["evaluated"] == [EPOCH]


@pytest.mark.parametrize(
    ("values", "settings", "may_be_last", "may_be_row"),
    [
        ([], {}, False, False),
        ([10.0, 9.0], {"stop_after": 3}, False, False),
        ([10.0, 9.0, 8.0], {"stop_after": 3}, True, True),
        ([10.0, 9.0, 11.0], {"stop_after": 3}, False, False),
        ([10.0], {"report": ReportedCheckpoint.BEST}, False, True),
    ],
)
def test_it_follows_from_the_figures_so_far_whether_the_next_may_be_the_last(
    training: Callable[..., Run],
    values: list[float],
    settings: dict[str, Any],
    may_be_last: bool,
    may_be_row: bool,
) -> None:
    run = training(**settings)
    for iteration, value in enumerate(values):
        run.state.history.note_evaluation(iteration, {"boxAP": value})
    assert (reported.may_be_last(run), reported.may_be_row(run)) == (may_be_last, may_be_row)
    run.state.iteration = TOTAL
    assert (reported.may_be_last(run), reported.may_be_row(run)) == (True, True)


def request(run: Run, *, split: Split | None = None) -> Request:
    """Every object found where it is, and one where there is none."""
    chosen = split or run.data.val
    assert chosen is not None
    truth = chosen.annotations.truth
    assert truth is not None
    boxes = np.concatenate([truth.boxes, [[1.0, 1.0, 5.0, 5.0]]])
    boxes[:, 2:] += boxes[:, :2] - 1
    rows = np.append(truth.rows, 0)
    return Request(
        detections=DetectionTable(
            image_ids=truth.image_ids[rows],
            labels=np.append(truth.labels, 1),
            boxes=boxes.astype(np.float32),
            scores=np.linspace(0.9, 0.3, len(rows), dtype=np.float32),
        ),
        split=chosen,
        kind="bbox",
        max_detections=100,
        is_judged=False,
        classes=run.data.classes,
    )


def test_a_process_of_its_own_scores_analyses_and_draws(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    asked = request(run)
    process = ScorerProcess(asked, folder=tmp_path)
    os.kill(process._process.pid, signal.SIGTERM)  # as to all processes of its rank, which decides
    used = 0.0
    while not process.has_ended():
        used = max(used, process.cpu_seconds())
        time.sleep(0.02)
    found = process.result()
    wanted = build_scorer("bbox", truth=asked.split.annotations.truth).score(asked.detections)
    assert (found.figures, used > 0) == (wanted.figures, True)
    assert found.analysis is not None
    assert found.analysis.images == len(asked.split)
    assert "best-1" in found.pictures
    assert list(tmp_path.glob("tmp*")) == []


def test_what_the_process_raises_ends_the_rank_with_the_same_error(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    assert run.data.val is not None
    process = ScorerProcess(request(run, split=replace(run.data.val, folder=tmp_path)), folder=tmp_path)
    with pytest.raises(MissingInput, match=str(tmp_path)):
        process.result()


def test_a_killed_process_is_named_with_what_to_do(make_run: MakeRun, tmp_path: Path) -> None:
    process = ScorerProcess(request(make_run()), folder=tmp_path)
    os.kill(process._process.pid, signal.SIGKILL)
    with pytest.raises(HelperKilled, match="ended by SIGKILL; if memory was short, raise"):
        process.result()


def test_the_process_needs_no_torch() -> None:
    program = f"import {MODULE}, sys; assert not {{'torch', 'torchvision'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_process_ends_with_its_rank() -> None:
    program = (
        "import os, subprocess, sys, time;"
        f"scorer = subprocess.Popen([sys.executable, '-m', '{MODULE}', str(os.getpid())]);"
        "print(scorer.pid, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as rank:
        assert rank.stdout is not None
        pid = int(rank.stdout.readline())
        assert is_running(pid)
        rank.kill()
        rank.wait()
        while is_running(pid):  # what it reads from stays open
            time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
