"""What a training step of zoo recipes costs on a GPU, beside what the zoo's page reports, as JSON.

Seconds an iteration and peak memory are those of one GPU with the recipe's own batch of made-up images of the
usual size, without a loader or other ranks; the page's are of eight V100. Synchronisations are the places of
a step at which the host waits: non-maximum suppression, and nothing else. Where no GPU is there it says so.

    python benchmarks/gpu.py [--steps 50] [--precision fp32] [RECIPE ...]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from kubedet_trainer.config import Recipe
from kubedet_trainer.recipes import read_recipe
from kubedet_trainer.structures import Batch, Proposals, Targets

RECIPES = (
    "faster_rcnn_r50_fpn_1x",
    "mask_rcnn_r50_fpn_1x",
    "cascade_rcnn_r50_fpn_1x",
    "retinanet_r50_fpn_1x",
    "faster_rcnn_mdpool_r50_fpn_1x",
    "ssd300_coco",
)
_DTYPES = {"fp32": None, "bf16": torch.bfloat16}
_WARM_UP_STEPS = 10
_PYRAMID_SIZE = (800, 1344)
_SLOTS = _OBJECTS = 8
_GIGABYTE = 1e9


def main() -> None:
    """Measure every recipe and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*", default=RECIPES, metavar="RECIPE", help="of the zoo")
    parser.add_argument("--steps", type=int, default=50, help="training steps of each recipe to time")
    parser.add_argument("--precision", choices=_DTYPES, default="fp32", help="of the forward pass")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py: no GPU is here, so nothing is measured", file=sys.stderr)
        return
    dtype = _DTYPES[arguments.precision]
    figures = {name: measure(read_recipe(name), arguments.steps, dtype) for name in arguments.recipes}
    device = torch.cuda.get_device_name()
    print(json.dumps({"benchmark": "gpu", "device": device, **vars(arguments), "figures": figures}, indent=2))


def measure(recipe: Recipe, steps: int, dtype: torch.dtype | None) -> dict[str, Any]:
    """The figures of one recipe beside those of its row."""
    torch.manual_seed(0)
    device = torch.device("cuda")
    model = recipe.build(num_classes=81)
    step = make_step(model.to(device).train(), recipe, make_batch(recipe).to(device), dtype)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(_WARM_UP_STEPS):
        step()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - started) / steps
    figures = {
        "seconds_per_iteration": round(seconds, 4),
        "memory_reserved_gb": round(torch.cuda.max_memory_reserved() / _GIGABYTE, 2),
        "memory_allocated_gb": round(torch.cuda.max_memory_allocated() / _GIGABYTE, 2),
        "synchronisations": count_synchronisations(step),
        "page": dict(recipe.reference),
    }
    del model, step
    torch.cuda.empty_cache()
    return figures


def count_synchronisations(step: Callable[[], None]) -> int:
    """How often the host waits for the GPU in one step."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def make_step(
    model: nn.Module, recipe: Recipe, batch: Batch, dtype: torch.dtype | None
) -> Callable[[], None]:
    """Forward, backward and update on the same batch again and again."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=1e-4)
    generator = torch.Generator(batch.pixels.device).manual_seed(0)

    def step() -> None:
        with torch.autocast(batch.pixels.device.type, dtype=dtype, enabled=dtype is not None):
            terms = model(batch.images, batch.targets, generator)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(torch.stack(list(terms.values())).sum())
        optimizer.step()

    return step


def make_batch(recipe: Recipe) -> Batch:
    """Noise with some objects, as many images as the recipe has for a process."""
    data = recipe.data
    count = data.images_per_process
    height, width = _PYRAMID_SIZE if data.keep_aspect else data.scale
    sizes = torch.tensor([[height, width]] * count)
    proposals = None
    if data.num_proposals is not None:
        boxes = _make_boxes(count, data.num_proposals, height, width)
        scores = torch.ones(boxes.shape[:2])
        proposals = Proposals(boxes=boxes, scores=scores, valid=scores > 0)
    masks = torch.randint(0, 256, (count, _SLOTS, height, -(-width // 8)), dtype=torch.uint8)
    return Batch(
        pixels=torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8),
        sizes=sizes,
        original_sizes=sizes,
        scale_factors=torch.ones(count, 4),
        image_ids=torch.arange(count),
        targets=Targets(
            boxes=_make_boxes(count, _SLOTS, height, width),
            labels=torch.randint(1, 21, (count, _SLOTS)),
            valid=(torch.arange(_SLOTS) < _OBJECTS).expand(count, _SLOTS),
            masks=masks if data.masks else None,
        ),
        proposals=proposals,
    )


def _make_boxes(count: int, slots: int, height: int, width: int) -> torch.Tensor:
    extent = torch.tensor([width, height])
    begins = torch.rand(count, slots, 2) * extent * 0.6
    return torch.cat([begins, begins + 16 + torch.rand(count, slots, 2) * extent * 0.3], dim=-1)


if __name__ == "__main__":
    main()
