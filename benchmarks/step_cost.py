"""What a training step costs, counted without a GPU: operations, bytes, peak memory, waits; prints JSON.

`kubedet_trainer.training.counting` says what is counted and how. The peak is that of the tensors of one
process alone; buckets of DDP, workspaces and fragmentation come on top.

    python benchmarks/step_cost.py [--only mask_rcnn_r50_fpn_1x ...] [--by-function]
"""

from __future__ import annotations

import argparse
import inspect
import json
from collections import Counter
from typing import Any

from kubedet_trainer.recipes import read_recipe
from kubedet_trainer.training.counting import count_step

RECIPES = (
    "rpn_r50_fpn_1x",
    "faster_rcnn_r50_fpn_1x",
    "mask_rcnn_r50_fpn_1x",
    "fast_mask_rcnn_r50_fpn_1x",
    "retinanet_r50_fpn_1x",
    "cascade_rcnn_r50_fpn_1x",
    "cascade_mask_rcnn_r50_fpn_1x",
    "mask_rcnn_r50_fpn_gn_2x",
    "faster_rcnn_mdconv_c3_c5_r50_fpn_1x",
    "faster_rcnn_mdpool_r50_fpn_1x",
    "ssd300_coco",
)


def main() -> None:
    """Count every recipe and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=RECIPES, metavar="RECIPE", help="of the zoo")
    parser.add_argument(
        "--by-function", action="store_true", help="operations of each function of the trainer"
    )
    arguments = parser.parse_args()
    figures = {name: measure(name, by_function=arguments.by_function) for name in arguments.only}
    print(json.dumps({"benchmark": "step_cost", **figures}, indent=2))


def measure(name: str, *, by_function: bool) -> dict[str, Any]:
    """The figures of a step of a recipe."""
    functions: Counter[str] = Counter()

    def observe() -> None:
        functions[_calling_function()] += 1

    count = count_step(read_recipe(name), observe=observe if by_function else lambda: None)
    work = count.cost.parts
    figures = {
        "operations": sum(part.operations for part in work.values()),
        "forward": work["forward"].operations,
        "backward": work["backward"].operations,
        "waits": count.waits,
        "gigabytes": round(sum(part.bytes for part in work.values()) / 1e9, 1),
        "peak_mib": round(count.peak_alone / 2**20),
    }
    return figures | ({"by_function": dict(functions.most_common())} if by_function else {})


def _calling_function() -> str:
    """The innermost function of the trainer that is running, as its file and name."""
    frame = inspect.currentframe()
    while frame is not None:
        _, package, file = frame.f_code.co_filename.partition("kubedet_trainer/")
        if package and file != "training/counting.py":
            return f"{file}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "backward and update"


if __name__ == "__main__":
    main()
