"""What kubedet does on this machine's GPU, in under four minutes and without network: figures, then a table.

Speed: the loop's own step (copies, forward, backward, clipping, fused update, DDP of one rank) of six recipes
on generated images in each precision: seconds, images a second, peak memory, and how often the host waits,
beside the zoo's page, whose figures are of eight V100. Checks: small detectors of all architectures stay
finite in every precision; losses and gradient norm are those of the CPU; a deterministic run that resumes is
the run that did not stop, twice; detections are those of the CPU; an evaluation ends with figures. Last
come the same steps with `compile: true`, as many as `--compile-seconds` leaves time for: graphs take some.

    python benchmarks/gpu.py [--steps 20] [--compile-seconds 90] [--output gpu.json] [RECIPE ...]

With ``--device cpu`` it rehearses the same on small detectors, with graphs but without inductor; CI does so.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

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
from kubedet_trainer.recipes import read_recipe, smoke
from kubedet_trainer.settings import CheckpointSettings, DatasetSettings, RunSettings
from kubedet_trainer.structures import Batch
from kubedet_trainer.telemetry import memory
from kubedet_trainer.telemetry.metrics import Metrics
from kubedet_trainer.training import compiling, loop, results, setup
from kubedet_trainer.training import device as devices
from kubedet_trainer.training.setup import Run
from kubedet_trainer.training.signals import StopRequest

RECIPES = (
    "faster_rcnn_r50_fpn_1x",
    "mask_rcnn_r50_fpn_1x",
    "cascade_rcnn_r50_fpn_1x",
    "retinanet_r50_fpn_1x",
    "faster_rcnn_mdpool_r50_fpn_1x",
    "ssd300_coco",
)
SMALL = tuple(name for name in smoke.RECIPES if "fast_" not in name)
"""Those that need no proposals of another detector."""

_SPEED_PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16")
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

    def wait(self) -> None:
        """Wait until the device has done everything."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


# --------------------------------------------------------------------------- speed


def measure_speed(
    bench: Bench, recipe: Recipe, precision: Precision, *, dataset: str, compiled: bool = False
) -> dict[str, Any]:
    """Seconds, memory and waits of a step."""
    run = bench.prepare(replace(recipe, precision=precision, compile=compiled), dataset=dataset)
    batches = itertools.repeat(first_batch(run))
    for _ in range(_WARM_UP_STEPS if bench.device.type == "cuda" else 1):
        loop._step(run, batches)
    memory.forget_peak(bench.device)
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


def measure_compiled(
    bench: Bench, names: Sequence[str], precisions: Sequence[Precision], *, dataset: str, seconds: float
) -> list[dict[str, Any]]:
    """`measure_speed` with compilation, in the order of the rows, until the time is over."""
    rows, end = [], time.monotonic() + seconds
    for name, precision in itertools.product(names, precisions):
        if time.monotonic() > end:
            break
        rows.append(measure_speed(bench, read_recipe(name), precision, dataset=dataset, compiled=True))
    return rows


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


# --------------------------------------------------------------------------- all of it


def run_all(bench: Bench, names: Sequence[str], *, compile_seconds: float) -> dict[str, Any]:
    """Every figure and every check."""
    on_gpu = bench.device.type == "cuda"
    measured: Sequence[Precision] = _SPEED_PRECISIONS if on_gpu else ("fp32",)
    dataset = _FULL if on_gpu else _TINY
    speed = [
        measure_speed(bench, read_recipe(name), precision, dataset=dataset)
        for name in names
        for precision in measured
    ]
    precisions: Sequence[Precision] = get_args(Precision) if on_gpu else ("fp16",)
    small = SMALL if on_gpu else SMALL[:2]
    checks = [check_finite(bench, name, precision) for name in small for precision in precisions]
    checks += [check_against_cpu(bench, name) for name in small]
    checks += [check_resume(bench, "smoke_mask_rcnn") for _ in range(2 if on_gpu else 1)]
    checks += check_use(bench, "smoke_faster_rcnn")
    compiling.BACKEND = "inductor" if on_gpu else "aot_eager"
    compiled = measure_compiled(bench, names, measured, dataset=dataset, seconds=compile_seconds)
    return {
        "benchmark": "gpu",
        "device": torch.cuda.get_device_name(bench.device) if on_gpu else "cpu",
        "driver": devices.driver_version(),
        "torch": torch.__version__,
        "speed": speed,
        "compiled": compiled,
        "checks": checks,
    }


def print_table(figures: dict[str, Any]) -> None:
    """The figures for a person, and what failed."""
    print(f"\n{figures['device']}, driver {figures['driver']}, torch {figures['torch']}")
    columns = f"{'recipe':34} {'':5} {'s/iter':>8} {'img/s':>8} {'alloc':>6} {'reserv':>6} {'waits':>6}"
    print(f"{columns} {'2019 s':>7} {'2019 GB':>8} {'compiled':>8} {'alloc':>6} {'graphs s':>8}")
    compiled = {(row["recipe"], row["precision"]): row for row in figures["compiled"]}
    for row in figures["speed"]:
        page = row["page"]
        theirs = f"{page.get('secondsPerIteration', '-'):>7} {page.get('memoryGB', '-'):>8}"
        waits = "-" if row["synchronisations"] is None else row["synchronisations"]
        print(
            f"{row['recipe']:34} {row['precision']:5} {row['seconds_per_iteration']:8.4f} "
            f"{row['images_per_second']:8.2f} {row['peak_allocated_gib']:6.2f} "
            f"{row['peak_reserved_gib']:6.2f} {waits:>6} {theirs} "
            f"{_describe_compiled(compiled.get((row['recipe'], row['precision'])))}"
        )
    failed = [check for check in figures["checks"] if not check["passed"]]
    print(f"checks: {len(figures['checks']) - len(failed)} passed, {len(failed)} failed")
    for check in failed:
        print(f"  {check}")


def _describe_compiled(row: dict[str, Any] | None) -> str:
    """The columns of a row with compilation, empty where there was no time for it."""
    if row is None:
        return f"{'-':>8} {'-':>6} {'-':>8}"
    if row["obstacle"] is not None:
        return f"failed: {row['obstacle']}"
    seconds, peak = row["seconds_per_iteration"], row["peak_allocated_gib"]
    return f"{seconds:8.4f} {peak:6.2f} {row['compile_seconds']:8.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and check everything. Returns 1 if a check failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="whose speed is measured")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu rehearses")
    parser.add_argument("--steps", type=int, default=20, help="training steps that are timed")
    parser.add_argument(
        "--compile-seconds", type=float, default=90, help="after which no further graphs are made"
    )
    parser.add_argument("--output", type=Path, default=Path("gpu.json"), help="file for the figures")
    given = parser.parse_args(arguments)
    on_gpu = given.device == "cuda"
    device = devices.open_device(gpus=int(on_gpu), local_rank=0)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before cuBLAS starts, for the resumes
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    with tempfile.TemporaryDirectory(prefix="kubedet-gpu-") as folder:
        group = Path(folder, "group").as_uri()
        c10d.init_process_group(backend, init_method=group, rank=0, world_size=1)
        try:
            bench = Bench(device=device, folder=Path(folder), steps=given.steps)
            names = given.recipes or (RECIPES if on_gpu else SMALL[:1])
            figures = run_all(bench, names, compile_seconds=given.compile_seconds)
        finally:
            c10d.destroy_process_group()
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(figures, indent=2))
    print_table(figures)
    return int(not all(check["passed"] for check in figures["checks"]))


if __name__ == "__main__":
    raise SystemExit(main())
