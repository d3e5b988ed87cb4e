"""What a training needs and takes on paper: memory by part, time by part, hours of the schedule. No torch.

Times are the least that the arithmetic and the memory of a GPU allow (the roofline model of Williams et al.,
2009). What the host, the exchange of gradients and the loading of images take comes on top.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from kubedet_trainer.config import BatchPlan, Recipe, apply_overrides, plan_batch
from kubedet_trainer.config.recipe import Precision
from kubedet_trainer.recipes import read_recipe
from kubedet_trainer.recipes.cost import StepCost, known_cost
from kubedet_trainer.recipes.gpus import GPUS, Gpu

ALLOCATOR_SHARE = 0.1
"""Of the tensors: what the allocator keeps in pieces between them, and workspaces of cuDNN and cuBLAS."""
CONTEXT_BYTES = 768 * 2**20
"""CUDA's context, the kernels of torch and NCCL's buffers, which the allocator does not count."""

TRAINING_IMAGES = {"coco": 117_266, "voc": 16_551}
"""By `published.PublishedRow.dataset`: images that are trained on (`docs/zoo.md`, 1.2 and 1.6)."""

Bound = Literal["compute", "bandwidth"]


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes of memory that one process needs of its GPU."""

    tensors: int
    """Exact for the largest images that the recipe makes."""
    allocator: int
    """A margin, `ALLOCATOR_SHARE`."""
    context: int
    """A margin, `CONTEXT_BYTES`."""

    @property
    def total(self) -> int:
        """With both margins."""
        return self.tensors + self.allocator + self.context

    @property
    def least(self) -> int:
        """Without the allocator's margin: less cannot be enough."""
        return self.tensors + self.context


@dataclass(frozen=True, kw_only=True)
class PartTime:
    """The least time of a part of a step."""

    part: str
    seconds: float
    bound: Bound
    """What it waits for: arithmetic, or reading and writing memory."""


@dataclass(frozen=True, kw_only=True)
class OnGpu:
    """A training on one kind of GPU."""

    gpu: Gpu
    fits: bool
    """Whether `Need.total` is no more than its memory."""
    most_images: int
    """At a time, so that it fits; a divisor of the global batch, or 0."""
    images_per_pass: int
    accumulation_steps: int
    parts: tuple[PartTime, ...]
    """Of one optimiser step."""
    hours: float | None
    """Of the whole schedule; None where nothing says how many images there are."""
    gpu_hours: float | None

    @property
    def seconds_per_iteration(self) -> float:
        """Of one optimiser step."""
        return sum(part.seconds for part in self.parts)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A training of one recipe on so many GPUs."""

    recipe: str
    precision: Precision
    gpus: int
    plan: BatchPlan
    """Before `auto`."""
    cost: StepCost
    """Of one pass of one process."""
    need: Need
    iterations: int | None
    """Of the whole schedule; None where nothing says how many images there are."""
    on: tuple[OnGpu, ...]

    def as_document(self) -> dict[str, Any]:
        """As what JSON can hold; bytes are bytes, times seconds."""
        return {
            "recipe": self.recipe,
            "precision": self.precision,
            "gpus": self.gpus,
            "globalBatch": self.plan.global_batch,
            "imagesPerProcess": self.cost.images,
            "parameters": self.cost.parameters,
            "checkpointBytes": self.cost.checkpoint_bytes,
            "memoryBytes": {**asdict(self.cost.memory), **asdict(self.need), "total": self.need.total},
            "pass": {
                name: {"operations": work.operations, "flops": work.flops, "bytes": work.bytes}
                for name, work in self.cost.parts.items()
            },
            "iterations": self.iterations,
            "on": {
                item.gpu.name: {
                    "memoryGB": item.gpu.memory_gb,
                    "fits": item.fits,
                    "mostImages": item.most_images,
                    "imagesPerPass": item.images_per_pass,
                    "accumulationSteps": item.accumulation_steps,
                    "parts": [asdict(part) for part in item.parts],
                    "secondsPerIteration": item.seconds_per_iteration,
                    "hours": item.hours,
                    "gpuHours": item.gpu_hours,
                    "source": item.gpu.source,
                }
                for item in self.on
            },
        }


def known_estimate(recipe: Recipe, *, gpus: int = 8) -> Estimate | None:
    """The estimate of a recipe whose cost is known beforehand (`cost.known_cost`), on every kind of GPU."""
    found = known_cost(recipe)
    return None if found is None else estimate(recipe, found, gpus=gpus)


def describe_known(name: str, overrides: Mapping[str, str], *, gpus: int) -> str:
    """In one line what a training of the recipe called `name` needs and takes on so many `gpus`.

    Raises:
        TrainerError: there is no such recipe, or an override breaks a rule.
    """
    found = known_estimate(apply_overrides(read_recipe(name), overrides), gpus=gpus)
    if found is None:
        changes = "".join(f" {field}={value}" for field, value in overrides.items())
        return f"`kubedet estimate {name}{changes} --gpus {gpus}` foretells memory and time"
    hours = ", ".join(f"{item.hours:.1f} on {item.gpu.name}" for item in found.on if item.hours is not None)
    return (
        f"a GPU needs about {found.need.total / 2**30:.1f} GiB for {found.cost.images} images at a time, "
        f"{found.need.tensors / 2**30:.1f} GiB of it tensors; a checkpoint takes "
        f"{found.cost.checkpoint_bytes / 2**30:.2f} GiB"
        + (f"; hours on paper, at least, with {gpus} x GPU: {hours}" if hours else "")
    )


def estimate(
    recipe: Recipe,
    cost: StepCost,
    *,
    gpus: int = 8,
    kinds: Sequence[Gpu] = tuple(GPUS.values()),
    training_images: int | None = None,
) -> Estimate:
    """What a training of `recipe` needs and takes, one process on each of so many `gpus`.

    Args:
        recipe: with its overrides.
        cost: of one pass of it.
        gpus: processes that train together.
        kinds: the GPUs to compare.
        training_images: None: those of the data set of the published row.
    """
    plan = plan_batch(
        global_batch=recipe.global_batch,
        images_per_process=recipe.data.images_per_process,
        world_size=gpus,
    )
    if training_images is None and recipe.published is not None:
        training_images = TRAINING_IMAGES[recipe.published.dataset]
    iterations = None
    if training_images is not None:
        in_epoch = -(-training_images * recipe.data.repeat // plan.global_batch)
        iterations = recipe.schedule.epochs * in_epoch
    return Estimate(
        recipe=recipe.name,
        precision=recipe.precision,
        gpus=gpus,
        plan=plan,
        cost=cost,
        need=memory_need(cost),
        iterations=iterations,
        on=tuple(
            _on_gpu(recipe, cost, gpu=gpu, gpus=gpus, plan=plan, iterations=iterations) for gpu in kinds
        ),
    )


def memory_need(cost: StepCost) -> Need:
    """What one process needs of its GPU."""
    tensors = cost.memory.total
    return Need(tensors=tensors, allocator=int(tensors * ALLOCATOR_SHARE), context=CONTEXT_BYTES)


def most_images(recipe: Recipe, cost: StepCost, *, memory_bytes: int) -> int:
    """How many images at a time a GPU with so much memory holds: a divisor of the global batch, or 0.

    More than the recipe's number may mix wide and tall images if the recipe leaves the number to the machine
    (`data.sampler`). They are padded to the longest of all sides then.
    """
    own = recipe.data.images_per_process
    for images in range(recipe.global_batch, 0, -1):
        is_mixed = recipe.data.fills_memory and images > own
        at = cost.at(images, pixels=_mixed_pixels(recipe) if is_mixed else 1.0)
        if recipe.global_batch % images == 0 and memory_need(at).total <= memory_bytes:
            return images
    return 0


def _mixed_pixels(recipe: Recipe) -> float:
    """Pixels of a batch of wide and tall images in those of one of either."""
    longest, shortest = (-(-side // recipe.data.pad_multiple) for side in recipe.data.scale)
    return longest / shortest if recipe.data.keep_aspect else 1.0


def _on_gpu(
    recipe: Recipe, cost: StepCost, *, gpu: Gpu, gpus: int, plan: BatchPlan, iterations: int | None
) -> OnGpu:
    most = most_images(recipe, cost, memory_bytes=gpu.memory_bytes)
    if recipe.data.fills_memory and most:
        plan = plan.filling(most)
    at = cost.at(plan.images_per_pass)
    parts = tuple(_part_times(at, gpu, precision=recipe.precision, passes=plan.accumulation_steps))
    hours = None if iterations is None else iterations * sum(part.seconds for part in parts) / 3600
    return OnGpu(
        gpu=gpu,
        fits=plan.images_per_pass <= most,
        most_images=most,
        images_per_pass=plan.images_per_pass,
        accumulation_steps=plan.accumulation_steps,
        parts=parts,
        hours=hours,
        gpu_hours=None if hours is None else hours * gpus,
    )


def _part_times(cost: StepCost, gpu: Gpu, *, precision: Precision, passes: int) -> list[PartTime]:
    """Products and the rest of each part: products do arithmetic while they read, the rest only reads."""
    times = []
    for name, work in cost.parts.items():
        repeats = 1 if name == "update" else passes
        arithmetic = work.flops / gpu.flops_per_second(precision)
        traffic = work.product_bytes / gpu.bytes_per_second
        if work.flops:
            times.append(
                PartTime(
                    part=f"{name}: products",
                    seconds=repeats * max(arithmetic, traffic),
                    bound="compute" if arithmetic > traffic else "bandwidth",
                )
            )
        rest = work.other_bytes / gpu.bytes_per_second
        title = f"{name}: the rest" if work.flops else name
        times.append(PartTime(part=title, seconds=repeats * rest, bound="bandwidth"))
    return times
