"""What starting from a detector of other classes is worth: AP50 on blood cells, from it and from scratch.

For each recipe it trains a detector on generated shapes and publishes it. It then trains on the photographs
of blood cells (BCCD: red and white cells, platelets) twice with the same settings, from the published file
and from scratch, and prints the AP50 of both after 25, 50 and 100 % of the steps as one line of JSON. The
outlines of BCCD are its boxes.

    python benchmarks/fine_tuning.py DATA [--recipes NAME...] [--scale 160,120] [--epochs 4]

DATA is a folder with ``images``, ``instances_train.json`` and ``instances_val.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SHAPES = "synthetic://shapes?images=200&val_images=20"
RECIPES = ("smoke_faster_rcnn", "smoke_mask_rcnn", "smoke_retinanet", "smoke_ssd", "smoke_cascade_rcnn")
SETTINGS = {
    "data.num_workers": "1",
    "global_batch": "8",
    "optimizer.lr": "0.01",
    "schedule.warmup_iterations": "20",
}
"""Of all three trainings: short ones need many small steps."""
FIXED_SIZE = ("smoke_ssd",)
"""Their images have one size, which ``--scale`` leaves."""
SHARES = (0.25, 0.5, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--scale", default="160,120", help="longest and shortest side of an image, in pixels")
    parser.add_argument("--first-epochs", type=int, default=8, help="epochs on shapes")
    parser.add_argument("--epochs", type=int, default=4, help="epochs on blood cells; a multiple of 4")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for recipe in arguments.recipes:
            print(json.dumps(compare(recipe, arguments, Path(scratch, recipe))), flush=True)


def compare(recipe: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """AP50 of both ways by the share of the steps, and what was loaded."""
    scale = {} if recipe in FIXED_SIZE else {"data.scale": arguments.scale}
    started = time.perf_counter()
    first = SETTINGS | scale | epochs(arguments.first_epochs)
    train(recipe, first, folder / "shapes", "--dataset", SHAPES)
    kubedet("publish", folder / "shapes", "--output", folder / "published")
    (published,) = (folder / "published").glob("*.pth")
    settings = SETTINGS | scale | epochs(arguments.epochs)
    data = ("--dataset", arguments.data.resolve(), *("--train-images", "images", "--val-images", "images"))
    files = ("--train-annotations", "instances_train.json", "--val-annotations", "instances_val.json")
    train(recipe, settings, folder / "tuned", *data, *files, "--pretrained", published)
    train(recipe, settings, folder / "scratch", *data, *files)
    origins = json.loads((folder / "tuned/results.json").read_text())["pretrained"]
    return {
        "recipe": recipe,
        "shapes_AP50": precisions(folder / "shapes")[arguments.first_epochs],
        "pretrained_AP50": by_share(precisions(folder / "tuned"), arguments.epochs),
        "from_scratch_AP50": by_share(precisions(folder / "scratch"), arguments.epochs),
        "tensors": {kind: origins[kind]["count"] for kind in ("loaded", "rowsByName", "initialised")},
        "seconds": round(time.perf_counter() - started),
    }


def epochs(number: int) -> dict[str, str]:
    """A schedule of so many epochs, the last quarter at a tenth of the rate."""
    return {"schedule.epochs": str(number), "schedule.decay_epochs": str(number - number // 4)}


def train(recipe: str, settings: Mapping[str, str], folder: Path, *given: str | Path) -> None:
    """Train with all checkpoints kept in `folder`: their manifests have the figures of each epoch."""
    overrides = (f"{name}={value}" for name, value in settings.items())
    kubedet("train", recipe, *overrides, "--checkpoint", folder, "--work-directory", f"{folder}-work", *given)


def precisions(folder: Path) -> dict[int, float]:
    """AP50 in percent by the epochs that were done."""
    manifests = (json.loads(file.read_text()) for file in folder.glob("step-*/manifest.json"))
    return {manifest["epoch"]: round(manifest["metrics"]["boxAP50"], 1) for manifest in manifests}


def by_share(found: Mapping[int, float], number: int) -> dict[str, float]:
    """AP50 after 25, 50 and 100 % of `number` epochs."""
    return {f"{share:.0%}": found[round(share * number)] for share in SHARES}


def kubedet(*arguments: str | Path) -> None:
    environment = {**os.environ, "KUBEDET_CHECKPOINT_KEEP_LAST": "1000"}
    done = subprocess.run(
        [Path(sys.executable).with_name("kubedet"), *arguments],
        check=False,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"kubedet {arguments[0]}: exit code {done.returncode}\n{done.stdout[-3000:]}")


if __name__ == "__main__":
    main()
