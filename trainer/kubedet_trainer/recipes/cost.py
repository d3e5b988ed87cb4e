"""What one training step costs: memory by part and work by part, counted or looked up. It needs no torch.

`training.counting` counts any recipe, which takes torch and some seconds. `costs.json` has the counts of the
recipes of kubedet; ``python -m kubedet_trainer.training.counting`` writes it, and a test compares.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from kubedet_trainer.config import Recipe
from kubedet_trainer.config.documents import recipe_leaves
from kubedet_trainer.recipes import RECIPES, read_recipe

TABLE = Path(__file__).with_name("costs.json")
"""A line for each recipe of `RECIPES`."""

_FREE = (
    *("name", "reference", "schedule", "seed", "pretrained", "evaluation_kind", "evaluation_detections"),
    *("deterministic", "compile", "global_batch", "optimizer.lr", "optimizer.weight_decay", "data.repeat"),
    *("data.flip_probability", "data.keep_empty", "data.min_image_side", "data.max_image_pixels"),
    *("data.balance_threshold", "data.num_workers", "data.images_per_process"),
)
"""Fields of a recipe that change neither the shape of a tensor nor an operation on one. Costs are scaled to
other `images_per_process`."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of the tensors that live at the peak of a step, in blocks of 512 as CUDA's allocator has them."""

    weights: int
    """Parameters and buffers."""
    gradients: int
    """Of all trained parameters: exchange between GPUs and accumulation keep all of them through a step."""
    optimizer: int
    """Momentum."""
    inputs: int
    """The batch."""
    activations: int
    """What the forward pass keeps for the backward pass."""
    working: int
    """Whatever else lives for a moment: gradients of activations, results that are used once."""

    @property
    def fixed(self) -> int:
        """The part that the number of images does not change."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        """All parts."""
        return self.fixed + self.inputs + self.activations + self.working

    def scaled(self, factor: float) -> Memory:
        """With `factor` times as many pixels: all that is not fixed grows with them, or a little less."""
        return replace(
            self,
            inputs=round(self.inputs * factor),
            activations=round(self.activations * factor),
            working=round(self.working * factor),
        )


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the operations of a part of a step do: at least one kernel each, views excepted."""

    operations: int = 0
    flops: int = 0
    """Of convolutions and products of matrices; a multiplication and an addition are two."""
    product_bytes: int = 0
    """Read and written by these."""
    other_bytes: int = 0
    """Read and written by all other operations."""

    @property
    def bytes(self) -> int:
        """Inputs and outputs of all operations."""
        return self.product_bytes + self.other_bytes

    def scaled(self, factor: float) -> Work:
        """With `factor` times as many images, which takes as many operations."""
        return replace(
            self,
            flops=round(self.flops * factor),
            product_bytes=round(self.product_bytes * factor),
            other_bytes=round(self.other_bytes * factor),
        )


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """One forward and backward pass over the largest images that the recipe makes, and one update."""

    images: int
    """Of the pass."""
    parameters: int
    """Numbers that the detector consists of, trained or not, without statistics of normalisation."""
    memory: Memory
    forward: Work
    backward: Work
    update: Work

    @property
    def parts(self) -> dict[str, Work]:
        """In the order of a step."""
        return {"forward": self.forward, "backward": self.backward, "update": self.update}

    @property
    def checkpoint_bytes(self) -> int:
        """Weights and the state of the optimiser."""
        return self.memory.weights + self.memory.optimizer

    def at(self, images: int, *, pixels: float = 1.0) -> StepCost:
        """For another number of images, each padded to `pixels` times its pixels in memory."""
        factor = images / self.images
        return replace(
            self,
            images=images,
            memory=self.memory.scaled(factor * pixels),
            forward=self.forward.scaled(factor),
            backward=self.backward.scaled(factor),
        )

    def as_document(self) -> dict[str, Any]:
        """As what JSON can hold."""
        return asdict(self)


def read_cost(document: dict[str, Any]) -> StepCost:
    """What `StepCost.as_document` made."""
    parts = {name: Work(**document[name]) for name in ("forward", "backward", "update")}
    return StepCost(**{**document, **parts, "memory": Memory(**document["memory"])})


def known_cost(recipe: Recipe) -> StepCost | None:
    """What a step of `recipe` costs, where it costs what that of a recipe in `TABLE` does; else None."""
    table = _read_table()
    if recipe.name not in table or cost_fields(recipe) != cost_fields(read_recipe(recipe.name)):
        return None
    return table[recipe.name].at(recipe.data.images_per_process)


def cost_fields(recipe: Recipe) -> dict[str, str]:
    """The fields of `recipe` that decide what a step costs, as overrides give them."""
    fields = recipe_leaves(recipe)
    if fields["precision"] == "tf32":
        fields["precision"] = "fp32"  # float32 in memory, too
    return {path: value for path, value in fields.items() if not path.startswith(_FREE)}


def write_table(costs: dict[str, StepCost]) -> None:
    """Replace `TABLE`, a line for each recipe."""
    lines = [f"  {json.dumps(name)}: {json.dumps(cost.as_document())}" for name, cost in costs.items()]
    TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


@cache
def _read_table() -> dict[str, StepCost]:
    if not TABLE.exists():
        return {}
    documents: dict[str, dict[str, Any]] = json.loads(TABLE.read_text())
    return {name: read_cost(document) for name, document in documents.items() if name in RECIPES}
