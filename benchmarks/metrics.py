"""What recording costs an iteration, and what the whole loop adds to forward, backward and update, as JSON.

Recording is measured as a worker does it: values in the memory-mapped files of prometheus_client's
multiprocess mode, the progress record once a second, a log line once an interval. Goal: under 0.1 % of a
step. All times are processor time of this process, so that a busy machine does not change them much.

    python benchmarks/metrics.py [--steps 12]
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

GOAL_PERCENT = 0.1
REFERENCE_STEP_SECONDS = 0.07
"""A step that a fast GPU could do with a Faster R-CNN of the zoo; the smoke recipe's own step is measured."""
_ITERATIONS = 20_000
_INTERVAL = 50
_LOSSES = {"loss_rpn_cls": 0.1, "loss_rpn_reg": 0.05, "loss_cls": 0.3, "loss_reg": 0.2}


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=12, help="training steps of each kind to time")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "metrics").mkdir()
        # Before the first import of prometheus_client, which then decides where values live.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(Path(folder) / "metrics")
        recording = measure_recording(Path(folder))
        steps = measure_steps(Path(folder), steps=arguments.steps)
    smoke = steps["step_cpu_seconds"]
    print(
        json.dumps(
            {
                "benchmark": "metrics",
                "recording": recording,
                "smoke": steps,
                "recording_percent_of_smoke_step": _percent(recording["per_iteration_seconds"], smoke),
                "recording_percent_of_70_ms_step": _percent(
                    recording["per_iteration_seconds"], REFERENCE_STEP_SECONDS
                ),
                "goal_percent": GOAL_PERCENT,
            },
            indent=2,
        )
    )


def measure_recording(folder: Path) -> dict[str, float]:
    """Processor seconds of each part of recording, and of all of it per iteration of 70 ms."""
    import torch
    from prometheus_client import CollectorRegistry

    from kubedet_trainer.dist import World
    from kubedet_trainer.logs import configure_logging
    from kubedet_trainer.telemetry.metrics import Metrics
    from kubedet_trainer.telemetry.report import Interval, Reporter, TrainingLength

    with Path(os.devnull).open("w") as nowhere:
        configure_logging(nowhere)
        world = World(rank=0, size=8, local_rank=0, device=torch.device("cpu"))
        reporter = Reporter(world=world, work_directory=folder, metrics=Metrics(CollectorRegistry()))
        reporter.begin(
            TrainingLength(total_iterations=10**9, iterations_per_epoch=7330, evaluations=12), iteration=0
        )
        interval = Interval(
            iteration=50, losses=_LOSSES, lr=0.02, seconds_per_iteration=0.07, data_wait_seconds=0.001
        )
        iteration = _seconds_of(
            lambda: reporter.record_iteration(1, images=2, seconds=0.07, data_wait_seconds=0.001), _ITERATIONS
        )
        closing = _seconds_of(lambda: reporter.record_interval(interval), _ITERATIONS // _INTERVAL)
        progress = _seconds_of(reporter._write_progress, _ITERATIONS // _INTERVAL)
        logging.disable()
    total = iteration + closing / _INTERVAL + progress * REFERENCE_STEP_SECONDS
    return {
        "iteration_seconds": iteration,
        "interval_seconds": closing,
        "progress_seconds": progress,
        "per_iteration_seconds": total,
    }


def measure_steps(folder: Path, *, steps: int) -> dict[str, float]:
    """Median processor seconds of a step, and of what it does besides forward, backward and update."""
    import torch

    from kubedet_trainer import config, recipes
    from kubedet_trainer.dist import initialise
    from kubedet_trainer.settings import CheckpointSettings, DatasetSettings, RunSettings
    from kubedet_trainer.telemetry.metrics import Metrics
    from kubedet_trainer.training import loop, setup
    from kubedet_trainer.training.signals import StopRequest

    recipe = config.apply_overrides(recipes.read_recipe("smoke_faster_rcnn"), {"data.num_workers": "0"})
    run = setup.prepare(
        RunSettings(
            recipe=recipe.name,
            dataset=DatasetSettings(uri="synthetic://shapes?images=32&val_images=4"),
            checkpoint=CheckpointSettings(uri=(folder / "checkpoints").as_uri()),
            work_directory=folder,
        ),
        recipe,
        world=initialise(torch.device("cpu")),
        stop=StopRequest(),
        metrics=Metrics(),
    )
    batches: Iterator[Any] = itertools.cycle(list(run.batches(end_iteration=2)))
    inside = _Stopwatch()
    learning = (
        mock.patch.object(loop, "_forward", inside.timed(loop._forward)),
        mock.patch.object(torch.Tensor, "backward", inside.timed(torch.Tensor.backward)),
        mock.patch.object(run.state.optimizer, "step", inside.timed(run.state.optimizer.step)),
    )
    whole, around = [], []
    with contextlib.ExitStack() as stack:
        for patch in learning:
            stack.enter_context(patch)
        for number in range(steps + 2):
            inside.seconds = 0.0
            seconds = _seconds_of(lambda: loop._step(run, batches), 1)
            if number >= 2:  # the first ones warm up
                whole.append(seconds)
                around.append(seconds - inside.seconds)
    return {
        "step_cpu_seconds": statistics.median(whole),
        "around_the_model_cpu_seconds": statistics.median(around),
        "around_the_model_percent": _percent(statistics.median(around), statistics.median(whole)),
        "accumulation_steps": run.data.batch.accumulation_steps,
        "threads": torch.get_num_threads(),
    }


class _Stopwatch:
    """Adds up the processor time of the functions that it times."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*arguments: Any, **options: Any) -> Any:
            started = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds += time.process_time() - started

        return wrapper


def _seconds_of(action: Callable[[], object], count: int) -> float:
    started = time.process_time()
    for _ in range(count):
        action()
    return (time.process_time() - started) / count


def _percent(part: float, whole: float) -> float:
    return round(100 * part / whole, 4)


if __name__ == "__main__":
    main()
