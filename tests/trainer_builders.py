"""Small detectors, images and targets for the trainer's tests, and a guard against waiting for the device."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from kubedet_trainer.config import Recipe, model_options
from kubedet_trainer.models import build_model
from kubedet_trainer.recipes import RECIPES
from kubedet_trainer.structures import Images, Targets

# --------------------------------------------------------------------------- detectors and their input


def smoke_recipe(architecture: str) -> Recipe:
    """The smoke recipe of an architecture; every architecture has one, so that tests reach it."""
    made = (make() for name, make in RECIPES.items() if name.startswith("smoke"))
    return next(recipe for recipe in made if recipe.model.architecture == architecture)


def make_detector(architecture: str, *, num_classes: int = 4, seed: int = 0) -> nn.Module:
    """The small detector of `smoke_recipe`, with weights drawn from `seed`."""
    torch.manual_seed(seed)
    return build_model(
        architecture, num_classes=num_classes, **model_options(smoke_recipe(architecture).model)
    )


def sample_in_order(detector: nn.Module) -> None:
    """Let `detector` sample the first candidates instead of random ones, as the goldens do."""
    for module in detector.modules():
        if hasattr(module, "sampler"):
            module.sampler = replace(module.sampler, priority=_first_come)
        if hasattr(module, "region_sampler"):
            sampler = replace(module.region_sampler.sampler, priority=_first_come)
            module.region_sampler = replace(module.region_sampler, sampler=sampler)


def _first_come(shape: torch.Size, _generator: torch.Generator) -> Tensor:
    return torch.arange(shape[1], 0, -1, dtype=torch.float32).expand(shape)


def make_images(*, batch: int = 2, height: int = 96, width: int = 128, seed: int = 0) -> Images:
    """Normal noise that fills all but the last rows and columns of the first image."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(batch, 3, height, width, generator=generator)
    sizes = torch.tensor([[height, width]] * batch)
    sizes[0] -= 8
    return Images(pixels=pixels, sizes=sizes)


def make_targets(boxes: Sequence[Sequence[Sequence[float]]], *, slots: int = 5) -> Targets:
    """The boxes of each image in the first of `slots` slots, labelled 1, 2, 3, 1, ..."""
    padded = torch.zeros(len(boxes), slots, 4)
    labels = torch.zeros(len(boxes), slots, dtype=torch.int64)
    valid = torch.zeros(len(boxes), slots, dtype=torch.bool)
    for image, own in enumerate(boxes):
        for slot, box in enumerate(own):
            padded[image, slot] = torch.tensor(box)
            labels[image, slot] = slot % 3 + 1
            valid[image, slot] = True
    return Targets(boxes=padded, labels=labels, valid=valid)


TWO_OBJECTS = [[10.0, 12.0, 49.0, 45.0], [60.0, 20.0, 109.0, 79.0]]
"""Boxes that lie within the images of `make_images`."""

# --------------------------------------------------------------------------- no waiting for the device


class HostSynchronisation(AssertionError):
    """Something between batch and optimiser step would wait for a GPU; the message names the place."""


_OPERATORS = frozenset(
    f"aten::{name}"
    for name in (
        "_local_scalar_dense",
        "_unique",
        "_unique2",
        "bincount",
        "equal",
        "histc",
        "is_nonzero",
        "item",
        "lift_fresh",
        "masked_select",
        "nonzero",
        "nonzero_numpy",
        "repeat_interleave.Tensor",
        "unique_consecutive",
        "unique_dim",
    )
) | {"torchvision::nms"}
"""Operators that wait for the device, or (`lift_fresh`) copy a constant of the host to it."""

_INDEXING = frozenset({"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"})
_METHODS = frozenset({Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__array__})
"""What reads a tensor of the host without any operator, and so would pass unseen on a CPU."""

_EXCEPTION = ("models/nms.py", "suppress")
"""File and function that may wait: only the data decides how many boxes survive."""


@contextmanager
def forbid_host_synchronisation() -> Iterator[None]:
    """Forward, backward and optimiser raise `HostSynchronisation` within it where a GPU is waited for."""
    with _MethodGuard(), _OperatorGuard():
        yield


class _OperatorGuard(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        base = name.split(".")[0]
        if name in _OPERATORS or base in _OPERATORS:
            _refuse(name)
        if base in _INDEXING and any(index is not None and index.dtype == torch.bool for index in args[1]):
            _refuse(f"{name} with a boolean index")
        if base == "aten::_to_copy" and kwargs.get("device", args[0].device) != args[0].device:
            _refuse(f"{name} to another device")
        return func(*args, **(kwargs or {}))


class _MethodGuard(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in _METHODS:
            _refuse(f"Tensor.{func.__name__}")
        return func(*args, **(kwargs or {}))


def may_wait() -> bool:
    """Whether the caller was called, at any depth, by the one function that may wait."""
    name, function = _EXCEPTION
    return any(
        frame.f_code.co_filename.endswith(name) and frame.f_code.co_name == function
        for frame in _own_frames()
    )


def _own_frames() -> Iterator[FrameType]:
    """The frames of ours on the stack, the innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if not _is_foreign(frame.f_code.co_filename):
            yield frame
        frame = frame.f_back


def _refuse(what: str) -> None:
    if may_wait():
        return
    place = next(_own_frames())
    filename, line_number = place.f_code.co_filename, place.f_lineno
    line = linecache.getline(filename, line_number).strip()
    raise HostSynchronisation(f"{filename}:{line_number} in {place.f_code.co_name}: {what}: {line}")


def _is_foreign(filename: str) -> bool:
    return filename == __file__ or "site-packages" in filename or filename.startswith("<")
