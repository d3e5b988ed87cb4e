"""Counts what a training step costs, on tensors without values: no GPU, no memory, no data.

A step of the loop runs on fake tensors of the recipe's largest shapes: forward, backward, clipping and the
fused update. An operation is one dispatch, views and empty allocations excepted. Bytes are those of its
inputs and outputs. Memory is what lives at the peak, in blocks of 512 bytes. Non-maximum suppression, whose
result only the data decide, keeps half of the boxes. FLOPs are those of `torch.utils.flop_counter` and of
deformable convolutions.

    python -m kubedet_trainer.training.counting    # writes recipes/costs.json
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from math import prod
from typing import Any

import torch
import torchvision  # noqa: F401 (it registers its operators)
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from kubedet_trainer.config import DataConfig, Recipe
from kubedet_trainer.data import transforms
from kubedet_trainer.data.transforms import Pipeline
from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.models import host
from kubedet_trainer.recipes import RECIPES, cost, read_recipe
from kubedet_trainer.recipes.cost import Memory, StepCost, Work
from kubedet_trainer.recipes.published_classes import CLASSES, COCO_CLASSES
from kubedet_trainer.structures import Batch, Masks, Proposals, Targets
from kubedet_trainer.training import optim
from kubedet_trainer.training.device import AUTOCAST

_OBJECTS = 8
"""Of an image, as is usual on COCO."""
_RUNS = 256
"""Of the mask of an object, about."""
_BLOCK = 512
"""CUDA's caching allocator rounds each allocation up to a multiple of this."""
_UNCOUNTED = frozenset(
    {
        *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
        *("device", "_record_function_enter_new", "_record_function_exit"),
    }
)
"""Allocations, and what only asks or marks."""
_CONSTANTS = "constants"
"""The part in which a first step makes what later ones find."""
_torchvision = torch.ops.torchvision


@dataclass(frozen=True, kw_only=True)
class Count:
    """A counted step."""

    cost: StepCost
    waits: int
    """Calls of non-maximum suppression, for whose results the host of a GPU waits."""
    peak_alone: int
    """Bytes of tensors where one process trains without accumulation: its gradients come one by one."""


def count_step(
    recipe: Recipe, *, num_classes: int | None = None, observe: Callable[[], None] = lambda: None
) -> Count:
    """What a step of `recipe` costs; the first steps of a run, which make constants, cost a little more.

    Args:
        recipe: any, also one of the user's own.
        num_classes: with the background; None: as many as the data set of the recipe's published row has, or
            as COCO has.
        observe: called at each operation that counts.

    Raises:
        InvalidInput: the detector lets the host read values of tensors.
    """
    ledger = Ledger(observe)
    try:
        with host.as_on_gpu(), FakeTensorMode():
            return _count(recipe, ledger, num_classes=num_classes or usual_classes(recipe))
    except RuntimeError as error:  # what asks for values, or has a shape that they decide
        first_line = str(error).strip().partition("\n")[0]
        raise InvalidInput(
            f"recipe: got '{recipe.name}', must be of a detector that reads no values of tensors "
            f"on the host, or its cost cannot be counted: {first_line}"
        ) from error


def _count(recipe: Recipe, ledger: Ledger, *, num_classes: int) -> Count:
    model = recipe.build(num_classes=num_classes).train()
    optimizer = optim.build_optimizer(model, config=recipe.optimizer)
    batch, generator = make_batch(recipe.data), torch.Generator()
    with torch.no_grad(), ledger.part(_CONSTANTS):
        model(batch.images, batch.targets, generator)
    weights = ledger.exclude([*model.parameters(), *model.buffers()])
    momentum = ledger.exclude(_tensors(list(optimizer.state.values())))
    inputs = ledger.exclude(_batch_tensors(batch))
    dtype = AUTOCAST[recipe.precision]
    ledger.waits = 0
    with ledger.part("forward"), torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        losses = model(batch.images, batch.targets, generator)
        total = torch.stack([value for name, value in losses.items() if "loss" in name]).sum()
    with ledger.part("backward"):
        total.backward()  # type: ignore[no-untyped-call]  # torch's
        del losses, total
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    activations, working = ledger.peak([p.grad for p in trained if p.grad is not None])
    with ledger.part("update"):
        optim.clip_gradients(model.parameters(), max_norm=recipe.optimizer.clip_norm)
        optimizer.step()
    found = StepCost(
        images=recipe.data.images_per_process,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        memory=Memory(
            weights=weights,
            gradients=sum(_blocks(parameter.nbytes) for parameter in trained),
            optimizer=momentum,
            inputs=inputs,
            activations=activations,
            working=working,
        ),
        forward=ledger.work["forward"],
        backward=ledger.work["backward"],
        update=ledger.work["update"],
    )
    alone = weights + momentum + inputs + sum(ledger.peak([]))
    return Count(cost=found, waits=ledger.waits, peak_alone=alone)


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's hook of subclasses
    """Keeps count of what is dispatched within its parts."""

    def __init__(self, observe: Callable[[], None]) -> None:
        """`observe` is called at each operation that counts."""
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.work: dict[str, Work] = {}
        self.waits = 0
        self._observe = observe
        self._part = ""
        self._numbers: dict[int, int] = {}
        """Of the allocation of each living storage, by the id of that; -1 where it does not count."""
        self._allocations: list[tuple[int, str]] = []
        """Bytes of each, and the part that made it."""
        self._events: list[tuple[int, bool]] = []
        """In their order: the number of an allocation, and whether it was made or freed."""
        self._ends: dict[str, int] = {}
        """How many events each part had seen at its end."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count it."""
        kwargs = kwargs or {}
        if func is _torchvision.nms.default:
            self.waits += 1
            result = torch.arange(max(1, len(args[0]) // 2), device=args[0].device)
        else:
            result = func(*args, **kwargs)
        made = _tensors(result)
        for tensor in made:
            self._note(tensor)
        packet = func.overloadpacket
        if not func.is_view and packet.__name__ not in _UNCOUNTED:
            read = {name: value for name, value in kwargs.items() if name != "out"}  # which is a result
            touched = sum(tensor.nbytes for tensor in (*_tensors((args, read)), *made))
            flops = int(_FLOPS[packet](*args, **kwargs, out_val=result)) if packet in _FLOPS else 0
            work = self.work[self._part]
            self.work[self._part] = Work(
                operations=work.operations + 1,
                flops=work.flops + flops,
                product_bytes=work.product_bytes + (touched if flops else 0),
                other_bytes=work.other_bytes + (0 if flops else touched),
            )
            if self._part != _CONSTANTS:
                self._observe()
        return result

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens within as this part of the step."""
        self._part = name
        self.work[name] = Work()
        with self:
            yield
        self._ends[name] = len(self._events)

    def exclude(self, tensors: Iterable[Tensor]) -> int:
        """Leave storages that outlive the step out of the peak; returns their bytes."""
        size = 0
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if self._numbers.setdefault(id(storage), -1) == -1:
                size += _blocks(storage.nbytes())
        return size

    def peak(self, gradients: Iterable[Tensor]) -> tuple[int, int]:
        """Bytes of activations and of working space when most lives.

        The `gradients` of parameters count for the moment in which each is made and no longer: a step keeps
        room for all of them beforehand (`Memory.gradients`).
        """
        kept = {self._numbers[id(gradient.untyped_storage())] for gradient in gradients}
        size = most = place = 0
        for index, (number, is_made) in enumerate(self._events):
            length, _ = self._allocations[number]
            if number not in kept:
                size += length if is_made else -length
            if (now := size + (length if number in kept and is_made else 0)) > most:
                most, place = now, index
        living: set[int] = set()
        for number, is_made in self._events[: place + 1]:
            (living.add if is_made else living.discard)(number)
        forgotten = {number for number, is_made in self._events[: self._ends["forward"]] if not is_made}
        activations = sum(
            size
            for number in living - kept - forgotten
            for size, part in [self._allocations[number]]
            if part == "forward"
        )
        return activations, most - activations

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._numbers:
            return
        if self._part == _CONSTANTS:  # whatever of it outlives the forward pass is older than the step
            self._numbers[key] = -1
            weakref.finalize(storage, self._numbers.pop, key, None)
            return
        self._numbers[key] = number = len(self._allocations)
        self._allocations.append((_blocks(storage.nbytes()), self._part))
        self._events.append((number, True))
        weakref.finalize(storage, self._free, key, number)

    def _free(self, key: int, number: int) -> None:
        del self._numbers[key]
        self._events.append((number, False))


def _deformable_flops(_pixels: Tensor, weight: Tensor, *_: Any, out_val: Tensor, **__: Any) -> int:
    """Of the product of matrices; sampling the pixels is left out."""
    return 2 * out_val.numel() * prod(weight.shape[1:])


def _deformable_backward_flops(gradient: Tensor, _pixels: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    """Two products: for the sampled pixels and for the weights."""
    return 4 * gradient.numel() * prod(weight.shape[1:])


_FLOPS: dict[Any, Callable[..., Any]] = {
    **flop_registry,
    _torchvision.deform_conv2d: _deformable_flops,
    _torchvision._deform_conv2d_backward: _deformable_backward_flops,
}


def _blocks(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _batch_tensors(batch: Any) -> list[Tensor]:
    values = [getattr(batch, item.name) for item in fields(batch)]
    parts = [value for value in values if value is not None and not isinstance(value, Tensor)]
    return [*_tensors(values), *(tensor for part in parts for tensor in _batch_tensors(part))]


def usual_classes(recipe: Recipe) -> int:
    """How many classes `recipe` is trained with unless the data have others, the background included."""
    if recipe.data.classes:
        return len(recipe.data.classes) + 1
    row = recipe.published
    return 1 + len(COCO_CLASSES if row is None else CLASSES[row.dataset])


def largest_size(data: DataConfig) -> tuple[int, int]:
    """(height, width) of the largest batch that a recipe makes of images of one aspect."""
    jitter = data.scale_jitter[1] if data.keep_aspect else 1.0
    width, height = (int(side * jitter + 0.5) for side in data.scale)
    return transforms.padded_size([(height, width)], multiple=data.pad_multiple)


def make_batch(data: DataConfig) -> Batch:
    """The largest batch of a process, with some objects in each image; all of it is zero."""
    count, (height, width) = data.images_per_process, largest_size(data)
    proposals = None
    if (slots := data.num_proposals) is not None:
        scores = torch.zeros(count, slots)
        proposals = Proposals(boxes=torch.zeros(count, slots, 4), scores=scores, valid=scores > 0)
    sizes = torch.tensor([[height, width]] * count)
    masks = Masks(
        run_ends=torch.zeros(_RUNS * count * _OBJECTS, dtype=torch.int64),
        starts=torch.zeros(count, _OBJECTS, dtype=torch.int64),
        rows=torch.zeros(count, height, dtype=torch.int64),
        columns=torch.zeros(count, width, dtype=torch.int64),
    )
    dtype = torch.float32 if Pipeline.of_training(data).augments else torch.uint8
    return Batch(
        pixels=torch.zeros(count, height, width, 3, dtype=dtype).permute(0, 3, 1, 2),
        sizes=sizes,
        original_sizes=sizes,
        scale_factors=torch.ones(count, 4),
        image_ids=torch.zeros(count, dtype=torch.int64),
        targets=Targets(
            boxes=torch.zeros(count, _OBJECTS, 4),
            labels=torch.ones(count, _OBJECTS, dtype=torch.int64),
            valid=torch.ones(count, _OBJECTS, dtype=torch.bool),
            masks=masks if data.masks else None,
        ),
        proposals=proposals,
    )


def count_recipes() -> dict[str, StepCost]:
    """What a step of every recipe of kubedet costs; equal detectors are counted once."""
    found: dict[tuple[tuple[str, str], ...], StepCost] = {}
    costs = {}
    for name in RECIPES:
        recipe = read_recipe(name)
        key = (*cost.cost_fields(recipe).items(), ("images", str(recipe.data.images_per_process)))
        if key not in found:
            found[key] = count_step(recipe).cost
        costs[name] = found[key]
    return costs


if __name__ == "__main__":
    cost.write_table(count_recipes())
