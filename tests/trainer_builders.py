"""Small detectors, images and targets for the trainer's tests, and a guard against waiting for the device."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, TypeVar, runtime_checkable
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from kubedet_trainer import config
from kubedet_trainer.config import Recipe
from kubedet_trainer.data import run_lengths
from kubedet_trainer.data.masks import ImageMasks, place_masks
from kubedet_trainer.models import host
from kubedet_trainer.models.box_head import BoxHead
from kubedet_trainer.models.detector import Detector
from kubedet_trainer.models.mask_targets import read_pixels
from kubedet_trainer.models.options.boxes import DetectionOptions
from kubedet_trainer.models.options.task import Task
from kubedet_trainer.models.rpn import RpnHead
from kubedet_trainer.models.sample import Priority
from kubedet_trainer.recipes import read_recipe, smoke
from kubedet_trainer.settings import CheckpointSettings
from kubedet_trainer.structures import Batch, Images, Masks, Proposals, Targets
from kubedet_trainer.training.checkpoint import Checkpointer, Origin
from kubedet_trainer.training.optim import build_optimizer
from kubedet_trainer.training.snapshot import take_snapshot
from kubedet_trainer.training.state import TrainState

# --------------------------------------------------------------------------- detectors and their input


SMALL_RECIPES = (*smoke.RECIPES, "my_detectors.recipes:smoke_fcos")
SMALL = {recipe.model.architecture: recipe for recipe in map(read_recipe, SMALL_RECIPES)}
"""Architecture to a small recipe of it, for tests of all detectors; FCOS is from outside of kubedet."""


DetectorT = TypeVar("DetectorT", bound=Detector)


def make_one(kind: type[DetectorT], architecture: str, *, num_classes: int = 4) -> DetectorT:
    """`make_detector` for a test that looks into a detector of this `kind`."""
    detector = make_detector(architecture, num_classes=num_classes)
    assert isinstance(detector, kind)
    return detector


def make_detector(architecture: str, *, num_classes: int = 4, seed: int = 0) -> Detector:
    """The detector of the recipe in `SMALL`, with weights drawn from `seed`."""
    torch.manual_seed(seed)
    return SMALL[architecture].model.build(Task(num_classes=num_classes))


def save_checkpoints(
    folder: Path,
    *,
    recipe: Recipe,
    model: nn.Module,
    classes: Sequence[str],
    iterations: Sequence[int] = (7,),
) -> None:
    """Write `model` below `folder` as checkpoints at these iterations of a job called cells, in epoch 3."""
    state = TrainState(
        model=model,
        optimizer=build_optimizer(model, config=recipe.optimizer),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        global_batch=2,
    )
    checkpointer = Checkpointer(
        CheckpointSettings(uri=folder.as_uri()),
        origin=Origin(recipe=config.recipe_to_dict(recipe), classes=list(classes), job="cells"),
    )
    for state.iteration in iterations:
        checkpointer.save(take_snapshot(state, epoch=3, metrics={"ar1000": 41.5}))


@runtime_checkable
class _Head(Protocol):
    options: DetectionOptions


def accept_any_score(detector: nn.Module) -> None:
    """Let `detector` find things before it has learnt anything."""
    for module in detector.modules():
        if isinstance(module, _Head) and isinstance(module.options, DetectionOptions):
            module.options = replace(module.options, score_threshold=0.0)


def first_come(shape: torch.Size, _generator: torch.Generator) -> Tensor:
    """A priority of candidates that falls in their order."""
    return torch.arange(shape[1], 0, -1, dtype=torch.float32).expand(shape)


def sample_by(detector: nn.Module, priority: Priority = first_come) -> None:
    """Let `detector` sample the candidates of the highest `priority`: the first ones, as the goldens do."""
    for module in detector.modules():
        if isinstance(module, RpnHead):
            module.sampler = replace(module.sampler, priority=priority)
        if isinstance(module, BoxHead):
            sampler = replace(module.region_sampler.sampler, priority=priority)
            module.region_sampler = replace(module.region_sampler, sampler=sampler)


def make_images(architecture: str = "rpn", *, seed: int = 0) -> Images:
    """Two images of normal noise, the first padded unless `architecture` wants a fixed size.

    Where it needs proposals made beforehand an image has more random ones than are sampled, and an empty one.
    """
    data = SMALL[architecture].data
    width, height = (128, 96) if data.keep_aspect else data.scale
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(2, 3, height, width, generator=generator)
    sizes = torch.tensor([[height, width]] * 2)
    if data.keep_aspect:
        sizes[0] -= 8
    proposals = None if data.num_proposals is None else _make_proposals(generator)
    return Images(pixels=pixels, sizes=sizes, proposals=proposals)


def _make_proposals(generator: torch.Generator, *, slots: int = 300) -> Proposals:
    begin = torch.rand(2, slots, 2, generator=generator) * 50
    end = begin + 10 + torch.rand(2, slots, 2, generator=generator) * 25
    valid = torch.arange(slots).expand(2, slots) < slots - 1
    return Proposals(boxes=torch.cat([begin, end], dim=-1), scores=torch.where(valid, 0.5, -1.0), valid=valid)


def make_batch(
    pixels: Tensor, sizes: Tensor, *, targets: Targets | None = None, proposals: Proposals | None = None
) -> Batch:
    """A loader's batch of these images, which are as large as in their files."""
    count = len(pixels)
    return Batch(
        pixels=pixels,
        sizes=sizes,
        original_sizes=sizes,
        scale_factors=torch.ones(count, 4),
        image_ids=torch.arange(1, count + 1),
        targets=make_targets([[]] * count) if targets is None else targets,
        proposals=proposals,
    )


def make_targets(
    boxes: Sequence[Sequence[Sequence[float]]], *, slots: int = 5, size: Sequence[int] = (96, 128)
) -> Targets:
    """The boxes of each image in the first of `slots` slots, labelled 1, 2, 3, 1, ...; masks fill them."""
    padded = torch.zeros(len(boxes), slots, 4)
    labels = torch.zeros(len(boxes), slots, dtype=torch.int64)
    valid = torch.zeros(len(boxes), slots, dtype=torch.bool)
    masks = np.zeros((len(boxes), slots, *size), np.uint8)
    for image, own in enumerate(boxes):
        for slot, box in enumerate(own):
            padded[image, slot] = torch.tensor(box)
            labels[image, slot] = slot % 3 + 1
            valid[image, slot] = True
            x1, y1, x2, y2 = (int(corner) for corner in box)
            masks[image, slot, y1 : y2 + 1, x1 : x2 + 1] = 1
    return Targets(boxes=padded, labels=labels, valid=valid, masks=make_masks(masks))


def make_masks(bitmaps: NDArray[np.uint8]) -> Masks:
    """A loader's masks of (B, G, H, W) bitmaps, as of images that are as large as in their files."""
    size = (bitmaps.shape[2], bitmaps.shape[3])
    images = [
        ImageMasks(
            codes=[run_lengths.encode(bitmap.astype(np.bool_)) for bitmap in own],
            original_size=size,
            size=size,
            flip=False,
        )
        for own in bitmaps
    ]
    return place_masks(images, slots=bitmaps.shape[1], size=size)


def draw_masks(masks: Masks) -> NDArray[np.bool_]:
    """(B, G, H, W) bitmaps of a loader's masks."""
    (count, slots), height, width = masks.starts.shape, masks.rows.shape[1], masks.columns.shape[1]
    every = [torch.arange(length).expand(count, slots, -1) for length in (height, width)]
    own = torch.arange(slots).expand(count, -1)
    return read_pixels(masks, own, rows=every[0], columns=every[1]).bool().numpy()


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

_EXCEPTION = ("models/nms.py", "_all_at_once")
"""File and function that may wait: only the data decides how many boxes survive."""


@contextmanager
def as_on_gpu() -> Iterator[None]:
    """Detectors do within it what they do on a GPU, where counts on the device are not free."""
    with mock.patch.object(host, "counts_are_free", return_value=False):
        yield


@contextmanager
def forbid_host_synchronisation() -> Iterator[None]:
    """Forward, backward and optimiser raise `HostSynchronisation` within it where a GPU is waited for."""
    with as_on_gpu(), _MethodGuard(), _OperatorGuard():  # type: ignore[no-untyped-call]  # torch's
        yield


class _OperatorGuard(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's hook of subclasses
    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.name()
        base = name.split(".")[0]
        if name in _OPERATORS or base in _OPERATORS:
            _refuse(name)
        if base in _INDEXING and any(index is not None and index.dtype == torch.bool for index in args[1]):
            _refuse(f"{name} with a boolean index")
        if base == "aten::_to_copy" and (kwargs or {}).get("device", args[0].device) != args[0].device:
            _refuse(f"{name} to another device")
        return func(*args, **(kwargs or {}))


class _MethodGuard(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _METHODS:
            _refuse(f"Tensor.{func.__name__}")
        return func(*args, **(kwargs or {}))


def may_wait() -> bool:
    """Whether the caller was called, at any depth, by the one function that may wait."""
    name, function = _EXCEPTION
    return any(
        frame.f_code.co_filename.endswith(name) and frame.f_code.co_name == function for frame in own_frames()
    )


def own_frames() -> Iterator[FrameType]:
    """The frames of ours on the stack, the innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if not _is_foreign(frame.f_code.co_filename):
            yield frame
        frame = frame.f_back


def _refuse(what: str) -> None:
    if may_wait():
        return
    place = next(own_frames())
    filename, line_number = place.f_code.co_filename, place.f_lineno
    line = linecache.getline(filename, line_number).strip()
    raise HostSynchronisation(f"{filename}:{line_number} in {place.f_code.co_name}: {what}: {line}")


def _is_foreign(filename: str) -> bool:
    return (
        filename in (__file__, str(Path(__file__).with_name("fake_cuda.py")))
        or "site-packages" in filename
        or filename.startswith("<")
    )
