"""Whether a training fits the GPUs of this machine, before anything else is done for it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch

from kubedet_trainer import contract
from kubedet_trainer.config import Recipe
from kubedet_trainer.errors import GpuTooSmall, InvalidInput
from kubedet_trainer.recipes import estimate
from kubedet_trainer.recipes.cost import StepCost, known_cost
from kubedet_trainer.storage.files import write_json
from kubedet_trainer.training import counting

_GIB = 2**30

_log = logging.getLogger(__name__)


def find_cost(recipe: Recipe) -> StepCost:
    """What a step of `recipe` costs, looked up where it is known and counted otherwise.

    Raises:
        InvalidInput: its detector cannot be counted, see `counting.count_step`.
    """
    return known_cost(recipe) or counting.count_step(recipe).cost


def smallest_gpu() -> int | None:
    """Bytes of the GPU with the least memory that this process sees; None where it sees none."""
    try:
        count = torch.cuda.device_count()
        sizes = [torch.cuda.get_device_properties(number).total_memory for number in range(count)]
    except RuntimeError as error:  # the ranks find out what it means
        _log.warning("CUDA does not say how much memory there is: %s", error)
        return None
    return min(sizes, default=None)


def check(recipe: Recipe, *, memory_bytes: int) -> int | None:
    """How many images at a time a GPU with so much memory holds; None where nobody knows.

    Where an estimate is in the allocator's margin the training may still fit: that is only logged.

    Raises:
        GpuTooSmall: the tensors alone do not fit.
    """
    try:
        cost = find_cost(recipe)
    except InvalidInput as error:
        _log.warning("the memory of this training cannot be estimated: %s", error)
        return None
    most = estimate.most_images(recipe, cost, memory_bytes=memory_bytes)
    images = recipe.data.images_per_process
    if recipe.data.fills_memory:
        images = max(1, min(most, images))
    need = estimate.memory_need(cost.at(images))
    has = f"the GPU has {memory_bytes / _GIB:.1f} GiB"
    if need.least > memory_bytes:
        raise GpuTooSmall(_explain(images, most, needs=f"need about {need.total / _GIB:.1f} GiB, {has}"))
    level = logging.WARNING if need.total > memory_bytes else logging.INFO
    _log.log(
        level,
        "%d images at a time need about %.1f GiB of GPU memory, %.1f GiB of it tensors; %s",
        images,
        need.total / _GIB,
        need.tensors / _GIB,
        has,
    )
    return max(1, most)


def _explain(images: int, most: int, *, needs: str) -> str:
    others = "a smaller data.scale or precision=bf16 takes less"
    if most:
        return (
            f"data.images_per_process: got {images}, must be at most {most}: {images} {needs}; "
            f"the global batch stays. Otherwise {others}"
        )
    return f"data.images_per_process: got {images}: {images} {needs}; not even one image fits: {others}"


def note_most_images(work_directory: Path, most: int) -> None:
    """Let the ranks of this worker know how many images at a time its GPUs hold."""
    write_json(work_directory / contract.CAPACITY_FILE, {"mostImages": most})


def read_most_images(work_directory: Path) -> int | None:
    """What `note_most_images` left; None where there was nothing to say."""
    try:
        most: int = json.loads((work_directory / contract.CAPACITY_FILE).read_text())["mostImages"]
    except FileNotFoundError:
        return None
    return most
