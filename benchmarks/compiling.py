"""A training step with `compile: true` next to one without, on this machine's CPU, as JSON.

Both sides are the loop's own step on the same generated images, in the order without, with, with, without.
Times are the CPU time of one thread, which other programs on the machine disturb least.

    python benchmarks/compiling.py [--steps 3] [--rounds 2] [--size 320x240] [RECIPE ...]
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from gpu_tasks import Bench, first_batch

from kubedet_trainer.recipes import read_recipe
from kubedet_trainer.training import loop
from kubedet_trainer.training.setup import Run

RECIPES = ("smoke_ssd", "smoke_retinanet")


def measure(name: str, *, size: str, steps: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Seconds of a step without and with compilation, and how long the graphs took."""
    recipe = read_recipe(name)
    if recipe.data.keep_aspect:
        longest, shortest = map(int, size.split("x"))
        recipe = replace(recipe, data=replace(recipe.data, scale=(longest, shortest)))
    bench = Bench(device=torch.device("cpu"), folder=folder, steps=steps)
    dataset = f"synthetic://shapes?images=8&val_images=4&size={size}&classes=80"
    runs = {
        compiled: bench.prepare(replace(recipe, compile=compiled), dataset=dataset)
        for compiled in (False, True)
    }
    compilation = runs[True].compilation
    assert compilation is not None, "the recipe asks for it"
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for run in runs.values():
        _step(run, 1)
    for compiled in (False, True, True, False) * rounds:
        seconds[compiled].append(_step(runs[compiled], steps))
    without, with_ = (statistics.median(seconds[compiled]) for compiled in (False, True))
    return {
        "size": size,
        "compile_seconds": round(compilation.seconds, 1),
        "obstacle": compilation.obstacle,
        "step_seconds": round(without, 3),
        "compiled_step_seconds": round(with_, 3),
        "ratio": round(with_ / without, 3),
        "ratio_by_round": [round(b / a, 3) for a, b in zip(*seconds.values(), strict=True)],
    }


def _step(run: Run, steps: int) -> float:
    """Seconds of one of so many steps."""
    batches = itertools.repeat(first_batch(run))
    started = time.process_time()
    for _ in range(steps):
        loop._step(run, batches)
    return (time.process_time() - started) / steps


def main() -> None:
    """Measure every recipe and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", default=RECIPES)
    parser.add_argument("--steps", type=int, default=3, help="that are timed together")
    parser.add_argument("--rounds", type=int, default=2, help="of without, with, with, without")
    parser.add_argument("--size", default="320x240", help="longest and shortest side of the images")
    given = parser.parse_args()
    torch.set_num_threads(1)
    figures = {}
    for name in given.recipes:
        with tempfile.TemporaryDirectory(prefix="kubedet-compiling-") as folder:
            figures[name] = measure(
                name, size=given.size, steps=given.steps, rounds=given.rounds, folder=Path(folder)
            )
    print(json.dumps({"benchmark": "compiling", **figures}, indent=2))


if __name__ == "__main__":
    main()
