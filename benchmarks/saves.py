"""What saving costs a training: milliseconds of stall, seconds of saving, and goodput, before and after.

"Before" is the save that the training waits for, "after" the one that a thread writes next to it, both of the
same state in one run: a Mask R-CNN R50 with momentum (356 MB). The place is that of a worker's environment.
Prints one JSON document. Goals: a stall of at most 50 ms, and a goodput of 99 % with a save every 30 s.

    KUBEDET_CHECKPOINT_URI=file:///tmp/saves python benchmarks/saves.py [--saves 5] [--rounds 4]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kubedet_trainer import config, recipes
from kubedet_trainer.contract import CheckpointStatus
from kubedet_trainer.models.options.task import Task
from kubedet_trainer.settings import read_checkpoint_settings
from kubedet_trainer.training.checkpoint import Checkpointer, Origin
from kubedet_trainer.training.local_copy import copy_file
from kubedet_trainer.training.optim import build_optimizer
from kubedet_trainer.training.saver import Saver
from kubedet_trainer.training.snapshot import take_snapshot
from kubedet_trainer.training.state import TrainState

_RECIPE = "mask_rcnn_r50_fpn_1x"
_INTERVAL_SECONDS = 30
_STEP_SECONDS = 0.2


class _Training:
    """A state of real size, and steps that compute and then change all of it."""

    def __init__(self, checkpointer: Checkpointer) -> None:
        recipe = recipes.read_recipe(_RECIPE)
        model = recipe.model.build(Task(num_classes=81))
        self.state = TrainState(
            model=model,
            optimizer=build_optimizer(model, config=recipe.optimizer),
            scaler=torch.amp.GradScaler("cpu", enabled=False),
            global_batch=16,
        )
        for value in model.parameters():
            value.grad = torch.full_like(value, 1e-6) if value.requires_grad else None
        self.state.optimizer.step()
        self.checkpointer = checkpointer
        self.saver = Saver(checkpointer, patience_seconds=600, on_failure=lambda: None)
        self.saver.prepare(self.state)
        self.saver.wait(60)
        self._left, self._right = torch.randn(512, 512), torch.randn(512, 512)
        self._products = 1
        while self._compute() < _STEP_SECONDS:
            self._products *= 2

    def step(self) -> float:
        """Compute on all cores, then update the weights; returns the seconds of waiting for a copy."""
        self._compute()
        started = time.perf_counter()
        self.saver.release()
        waited = time.perf_counter() - started
        self.state.optimizer.step()
        self.state.iteration += 1
        return waited

    def save_and_wait(self) -> CheckpointStatus:
        """The save of before."""
        return self.checkpointer.save(take_snapshot(self.state, epoch=0))

    def save(self) -> None:
        """The save of after."""
        self.saver.save(self.state, epoch=0, require_sound=lambda: None)

    def _compute(self) -> float:
        started = time.perf_counter()
        for _ in range(self._products):
            torch.mm(self._left, self._right)
        return time.perf_counter() - started


def measure_before(training: _Training, *, saves: int) -> dict[str, Any]:
    """Stall and duration of saves that the training waits for."""
    stalls, durations = [], []
    for _ in range(saves):
        training.step()
        started = time.perf_counter()
        status = training.save_and_wait()
        stalls.append(time.perf_counter() - started)
        durations.append(status.saveSeconds)
    return {"stallMs": _milliseconds(stalls), "saveSeconds": _rounded(durations)}


def measure_after(training: _Training, *, saves: int) -> dict[str, Any]:
    """Stall and duration of saves next to the training, which steps on meanwhile."""
    stalls = []
    for _ in range(saves):
        training.step()
        started = time.perf_counter()
        training.save()
        stall = time.perf_counter() - started
        stalls.append(stall + training.step())
        while not training.saver.is_idle():
            training.step()
    durations = [status.saveSeconds for status in training.saver.collect()]
    return {"stallMs": _milliseconds(stalls), "saveSeconds": _rounded(durations)}


def measure_interpreter(training: _Training) -> dict[str, float]:
    """How much of the interpreter a save leaves to a thread that, as one with a GPU, only starts work."""
    rate, _ = _spin(lambda: False, seconds=1)
    training.save()
    next_to_it, pause = _spin(training.saver.is_idle, seconds=60)
    return {"rateNextToASave": round(next_to_it / rate, 3), "longestPauseMs": round(1000 * pause, 1)}


def measure_goodput(training: _Training, *, rounds: int) -> dict[str, float]:
    """Steps in 30 s that begin with a save, relative to 30 s without one; windows of all kinds take turns."""
    kinds: dict[str, Callable[[], object]] = {
        "alone": lambda: None,
        "before": training.save_and_wait,
        "after": training.save,
    }
    steps = dict.fromkeys(kinds, 0)
    for _ in range(rounds):
        for kind, save in kinds.items():
            until = time.perf_counter() + _INTERVAL_SECONDS
            save()
            while time.perf_counter() < until:
                training.step()
                steps[kind] += 1
            training.saver.wait(600)
    return {kind: round(steps[kind] / steps["alone"], 4) for kind in ("before", "after")}


def _spin(is_over: Callable[[], bool], *, seconds: float) -> tuple[float, float]:
    """Rounds of plain Python a second, and the longest of them in seconds, until it is over."""
    started = last = time.perf_counter()
    longest, rounds = 0.0, 0
    while not is_over() and last - started < seconds:
        sum(range(100))
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
        rounds += 1
    return rounds / (last - started), longest


def _milliseconds(seconds: list[float]) -> list[float]:
    return [round(1000 * value, 1) for value in seconds]


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 2) for value in values]


def main() -> None:
    """Measure everything at the place of the environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=4)
    asked = parser.parse_args()
    settings = replace(read_checkpoint_settings(os.environ), keep_last=1)
    recipe = recipes.read_recipe(_RECIPE)
    origin = Origin(recipe=config.recipe_to_dict(recipe), classes=["x"] * 80)
    with tempfile.TemporaryDirectory() as work:
        copy = copy_file(Path(work))
        training = _Training(Checkpointer(settings, origin=origin, copy=copy))
        document = {
            "place": settings.uri.split(":")[0],
            "megabytes": round(training.save_and_wait().sizeBytes / 1e6, 1),
            "before": measure_before(training, saves=asked.saves),
            "after": measure_after(training, saves=asked.saves),
            "interpreter": measure_interpreter(training),
            "goodput": measure_goodput(training, rounds=asked.rounds),
        }
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
