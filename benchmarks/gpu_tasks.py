"""What `gpu.py` has its processes measure and check: the loop's own step, on a GPU and next to the CPU."""

from __future__ import annotations

import argparse
import copy
import gc
import itertools
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as c10d
from prometheus_client import CollectorRegistry
from torch import Tensor

from kubedet_trainer.config import Recipe
from kubedet_trainer.config.recipe import Precision
from kubedet_trainer.contract import BatchPolicy
from kubedet_trainer.dist import World
from kubedet_trainer.evaluation.evaluate import detect
from kubedet_trainer.models.box_head import BoxHead
from kubedet_trainer.models.rpn import RpnHead
from kubedet_trainer.recipes import read_recipe
from kubedet_trainer.settings import CheckpointSettings, DatasetSettings, RunSettings
from kubedet_trainer.structures import Batch
from kubedet_trainer.telemetry import memory
from kubedet_trainer.telemetry.metrics import Metrics
from kubedet_trainer.training import compiling, loop, results, setup
from kubedet_trainer.training import device as devices
from kubedet_trainer.training.setup import Run
from kubedet_trainer.training.signals import StopRequest

_WARM_UP_STEPS = 5
_FULL = "synthetic://shapes?images=16&val_images=4&size=1333x800&classes=80"
_TINY = "synthetic://shapes?images=16&val_images=8&size=320x240"
_RESUME_AFTER, _RESUME_STEPS = 3, 6


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where and how long everything is measured."""

    device: torch.device
    folder: Path
    steps: int

    def prepare(self, recipe: Recipe, *, dataset: str = _TINY) -> Run:
        """A run of `recipe` from fresh weights, a chunk a step, prepared as the trainer does."""
        recipe = replace(recipe, pretrained=None, data=replace(recipe.data, num_workers=0))
        settings = RunSettings(
            recipe=recipe.name,
            dataset=DatasetSettings(uri=dataset),
            checkpoint=CheckpointSettings(uri=(self.folder / "checkpoints").as_uri(), resume="Never"),
            batch_policy=BatchPolicy.SCALE_LEARNING_RATE,
            work_directory=self.folder / ("full" if dataset == _FULL else "tiny"),
        )
        return setup.prepare(
            settings,
            recipe,
            world=World(device=self.device),
            stop=StopRequest(),
            metrics=Metrics(CollectorRegistry()),
        )

    @property
    def on_gpu(self) -> bool:
        """Whether this is no rehearsal."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Wait until the device has done everything."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)


# --------------------------------------------------------------------------- speed


def measure_speed(
    bench: Bench, recipe: Recipe, precision: Precision, *, compiled: bool = False
) -> dict[str, Any]:
    """Seconds, memory and waits of a step."""
    dataset = _FULL if bench.on_gpu else _TINY
    run = bench.prepare(replace(recipe, precision=precision, compile=compiled), dataset=dataset)
    batches = itertools.repeat(first_batch(run))
    for _ in range(_WARM_UP_STEPS if bench.on_gpu else 1):
        loop._step(run, batches)
    memory.forget_peak(bench.device)
    loop._step(run, batches)  # takes back from the driver what that has given to it
    bench.wait()
    started = time.perf_counter()
    for _ in range(bench.steps):
        loop._step(run, batches)
    bench.wait()
    seconds = (time.perf_counter() - started) / bench.steps
    peaks = {kind: memory.peak_bytes(bench.device, kind=kind) for kind in ("allocated", "reserved")}
    return {
        "recipe": recipe.name,
        "precision": precision,
        **_compilation(run),
        "seconds_per_iteration": round(seconds, 4),
        "images_per_second": round(recipe.data.images_per_process / seconds, 2),
        **{f"peak_{kind}_gib": round(peak / 2**30, 2) for kind, peak in peaks.items()},
        "synchronisations": _count_synchronisations(run, batches),
        "finite": run.monitor.check() == 0,
        "page": dict(recipe.reference),
    }


def _compilation(run: Run) -> dict[str, Any]:
    """What became of `compile: true`."""
    if run.compilation is None:
        return {}
    return {"compile_seconds": round(run.compilation.seconds, 1), "obstacle": run.compilation.obstacle}


def first_batch(run: Run) -> Batch:
    """The batch that a run begins with."""
    return next(iter(run.batches(end_iteration=run.length.total_iterations)))


def _count_synchronisations(run: Run, batches: Iterator[Batch]) -> int | None:
    """How often the host waits for the device in a step; None on a CPU, which cannot tell."""
    if run.world.device.type != "cuda":
        loop._step(run, batches)
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loop._step(run, batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


# --------------------------------------------------------------------------- checks


def check_finite(bench: Bench, name: str, precision: Precision) -> dict[str, Any]:
    """Whether a small detector's losses and weights stay finite over some steps."""
    run = bench.prepare(replace(read_recipe(name), precision=precision))
    batches = itertools.repeat(first_batch(run))
    for _ in range(3):
        loop._step(run, batches)
    weights = all(bool(torch.isfinite(weight).all()) for weight in run.detector.parameters())
    return {"check": f"finite {name} {precision}", "passed": weights and run.monitor.check() == 0}


def check_against_cpu(bench: Bench, name: str) -> dict[str, Any]:
    """The losses and the gradient norm of a first step in float32 beside those of the CPU."""
    recipe = replace(read_recipe(name), precision="fp32")
    ours, theirs = (
        _first_losses(replace(bench, device=device), recipe) for device in (bench.device, torch.device("cpu"))
    )
    error = max(abs(ours[term] - value) / max(abs(value), 1e-6) for term, value in theirs.items())
    return {"check": f"as on the CPU {name}", "passed": error < 1e-3, "relative_error": error}


def _first_losses(bench: Bench, recipe: Recipe) -> dict[str, float]:
    run = bench.prepare(recipe)
    for module in run.detector.modules():  # generators of two devices draw different numbers
        if isinstance(module, RpnHead):
            module.sampler = replace(module.sampler, priority=_first_come)
        if isinstance(module, BoxHead):
            sampler = replace(module.region_sampler.sampler, priority=_first_come)
            module.region_sampler = replace(module.region_sampler, sampler=sampler)
    loop._step(run, itertools.repeat(first_batch(run)))
    (interval,) = run.monitor.close_interval(1, is_last=True)
    return interval.means


def _first_come(shape: torch.Size, generator: torch.Generator) -> Tensor:
    return torch.arange(shape[1], 0, -1, dtype=torch.float32, device=generator.device).expand(shape)


def check_resume(bench: Bench, name: str) -> dict[str, Any]:
    """Whether a deterministic run that resumes has the bits of the one that did not stop."""
    recipe = replace(read_recipe(name), deterministic=True)
    straight = bench.prepare(recipe)
    batches = list(itertools.islice(straight.batches(end_iteration=_RESUME_STEPS), _RESUME_STEPS))
    for batch in batches[:_RESUME_AFTER]:
        loop._step(straight, iter([batch]))
    saved = copy.deepcopy(straight.state.state_dict())
    resumed = bench.prepare(recipe)
    resumed.state.load_state_dict(saved)
    for run in (straight, resumed):
        for batch in batches[_RESUME_AFTER:]:
            loop._step(run, iter([batch]))
    weights = zip(straight.detector.parameters(), resumed.detector.parameters(), strict=True)
    return {"check": f"resume {name}", "passed": all(torch.equal(ours, theirs) for ours, theirs in weights)}


def check_use(bench: Bench, name: str) -> list[dict[str, Any]]:
    """Train a little, evaluate, and detect on both devices: the same boxes, as far as scores decide them."""
    run = bench.prepare(replace(read_recipe(name), precision="fp32"))
    batches = itertools.repeat(first_batch(run))
    for _ in range(bench.steps):
        loop._step(run, batches)
    assert run.data.val is not None, "generated data have a validation split"
    process = results.start_scoring(run, run.data.val, is_judged=True)
    assert process is not None, "this is rank 0"
    figures = process.result().figures
    batch = next(iter(results._val_loader(run, run.data.val, world=run.world)))
    on_device, on_cpu = (_best_scores(run, batch, device) for device in (bench.device, torch.device("cpu")))
    count = min(len(on_device), len(on_cpu))
    error = float((on_device[:count] - on_cpu[:count]).abs().max()) if count else 0.0
    return [
        {"check": f"evaluation {name}", "passed": "boxAP" in figures, **figures},
        {"check": f"detections {name}", "passed": error < 1e-3, "score_error": error, "count": count},
    ]


def _best_scores(run: Run, batch: Batch, device: torch.device) -> Tensor:
    detector = run.detector.to(device).eval()
    with torch.inference_mode():
        (table,) = detect(detector, batch, device=device)
    return torch.from_numpy(table.scores[:20].copy())


# --------------------------------------------------------------------------- a process

_Rows = dict[str, list[dict[str, Any]]]
"""By part of the figures: ``speed``, ``compiled``, ``checks``."""


def _speed(bench: Bench, recipe: str, precision: Precision) -> _Rows:
    return {"speed": [measure_speed(bench, read_recipe(recipe), precision)]}


def _compiled(bench: Bench, recipe: str, precision: Precision) -> _Rows:
    compiling.BACKEND = "inductor" if bench.on_gpu else "aot_eager"
    return {"compiled": [measure_speed(bench, read_recipe(recipe), precision, compiled=True)]}


KINDS: dict[str, Callable[[Bench, str, Precision], _Rows]] = {
    "speed": _speed,
    "finite": lambda bench, recipe, precision: {"checks": [check_finite(bench, recipe, precision)]},
    "cpu": lambda bench, recipe, _: {"checks": [check_against_cpu(bench, recipe)]},
    "resume": lambda bench, recipe, _: {"checks": [check_resume(bench, recipe)]},
    "use": lambda bench, recipe, _: {"checks": check_use(bench, recipe)},
    "compiled": _compiled,
}
"""What the first word of a task stands for; a recipe and a precision follow."""


def _describe(bench: Bench) -> dict[str, str]:
    return {
        "device": torch.cuda.get_device_name(bench.device) if bench.on_gpu else "cpu",
        "driver": devices.driver_version(),
        "torch": torch.__version__,
    }


@contextmanager
def _alone(device: torch.device, folder: Path) -> Iterator[None]:
    """A process group of one, so that DDP is part of the step."""
    group = folder / f"group-{os.getpid()}"
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    c10d.init_process_group(backend, init_method=group.as_uri(), rank=0, world_size=1)
    try:
        yield
    finally:
        c10d.destroy_process_group()


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the tasks, and append a line of JSON after each; the first line is about the machine.

    Returns 1 after a task that failed: what CUDA says then it would say again for every other one.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--notes", type=Path, required=True)
    parser.add_argument("tasks", nargs="*")
    given = parser.parse_args(arguments)
    device = devices.open_device(gpus=int(given.device == "cuda"), local_rank=0)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before cuBLAS starts, for the resumes
    bench = Bench(device=device, folder=given.folder, steps=given.steps)
    with _alone(device, given.folder), given.notes.open("a", buffering=1) as notes:
        print(json.dumps({"machine": _describe(bench)}), file=notes)
        for task in given.tasks:
            kind, recipe, precision = task.split()
            try:
                rows = KINDS[kind](bench, recipe, cast(Precision, precision))
            except Exception as error:
                failed = {"check": task, "passed": False, "error": f"{type(error).__name__}: {error}"}
                print(json.dumps({"task": task, "checks": [failed]}), file=notes)
                return 1
            print(json.dumps({"task": task, **rows}), file=notes)
            gc.collect()  # a compiled detector refers to itself, and would count in the next peak
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
