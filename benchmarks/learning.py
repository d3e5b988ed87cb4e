"""Whether every method learns: trains each smoke recipe on generated shapes and prints what it reached.

Run as ``python benchmarks/learning.py [RECIPE...]``; all take about an hour on two cores. Fast R-CNN
learns from the proposals of the region proposal network that was trained before it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

DATASET = "synthetic://shapes"
RECIPES = (
    "smoke_rpn",
    "smoke_fast_rcnn",
    "smoke_fast_mask_rcnn",
    "smoke_faster_rcnn",
    "smoke_mask_rcnn",
    "smoke_cascade_rcnn",
    "smoke_cascade_mask_rcnn",
    "smoke_retinanet",
    "smoke_ssd",
)
FIGURES = ("boxAP50", "maskAP50", "ar1000")


def main() -> None:
    wanted = sys.argv[1:] or RECIPES
    with tempfile.TemporaryDirectory() as scratch:
        for recipe in wanted:
            print(json.dumps(learn(recipe, Path(scratch))), flush=True)


def learn(recipe: str, scratch: Path) -> dict[str, Any]:
    """The figures of one recipe in percent, and the seconds that training and evaluating took."""
    proposals = scratch / "proposals"
    needs_proposals = recipe.startswith("smoke_fast_")
    if needs_proposals and not proposals.exists():
        if not (scratch / "smoke_rpn").exists():
            learn("smoke_rpn", scratch)
        kubedet("propose", scratch / "smoke_rpn", "--dataset", DATASET, "--output", proposals)
    started = time.perf_counter()
    given = ("--proposals", proposals) if needs_proposals else ()
    work = scratch / f"{recipe}-work"
    kubedet(
        *("train", recipe, "--dataset", DATASET, "--checkpoint", scratch / recipe),
        *("--work-directory", work, *given),
    )
    results = json.loads((work / "results.json").read_text())
    measured = {figure["name"]: round(figure["value"], 1) for figure in results["metrics"]}
    return {
        "recipe": recipe,
        **{name: measured[name] for name in FIGURES if name in measured},
        "seconds": round(time.perf_counter() - started),
        "seconds_per_iteration": results["secondsPerIteration"],
    }


def kubedet(*arguments: str | Path) -> None:
    subprocess.run([Path(sys.executable).with_name("kubedet"), *arguments], check=True, capture_output=True)


if __name__ == "__main__":
    main()
