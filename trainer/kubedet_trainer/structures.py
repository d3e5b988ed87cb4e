"""The tensors that pass between data, models and the loop. Few shapes occur within a run.

Legend of the suffixes: B images of a batch, G padded ground-truth slots of an image, P padded proposals of an
image, H and W padded pixels, K detections of an image, E padded ends of runs. Boxes are xyxy in absolute
pixels with inclusive corners (width = x2 - x1 + 1), as everywhere in the 2019 zoo; label 0 is the background.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

_ALIGNMENT = 64
"""Where tensors begin in the memory of a batch: kernels read up to 16 bytes at once."""


@dataclass(frozen=True, kw_only=True)
class _Tensors:
    """A record of tensors (and of such records) that moves between devices as one."""

    def _map(self, function: Callable[[Any], Any]) -> Self:
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return type(self)(**{name: _map_value(function, value) for name, value in values.items()})

    def to(self, device: torch.device) -> Self:
        """The same record on `device`; from pinned memory the copy does not block."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """The same record in page-locked memory; `torch.utils.data.DataLoader` calls this."""
        return self._map(lambda tensor: tensor.pin_memory())


def _map_value(function: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, _Tensors):
        return value._map(function)
    return None if value is None else function(value)


class _Place(NamedTuple):
    """Where a tensor lies in a piece of memory."""

    begin: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor, *, begin: int | None = None) -> _Place:
        """Where `tensor` lies, or would lie from the byte `begin` on."""
        own = int(tensor.storage_offset()) * tensor.itemsize
        return cls(own if begin is None else begin, tensor.dtype, tuple(tensor.shape), tensor.stride())

    def view(self, memory: Tensor) -> Tensor:
        """The tensor at this place of `memory`, (bytes,) uint8."""
        size = self.dtype.itemsize
        for length in self.shape:
            size *= length
        part = memory[self.begin : self.begin + size].view(self.dtype)
        return part.as_strided(self.shape, self.stride)


@dataclass(frozen=True, kw_only=True)
class Proposals(_Tensors):
    """Regions that may hold an object: P slots an image, best first. They carry no gradient."""

    boxes: Tensor
    """(B, P, 4) float32 in pixels of the resized (and flipped) image."""
    scores: Tensor
    """(B, P) float32, negative in empty slots."""
    valid: Tensor
    """(B, P) bool."""


@dataclass(frozen=True, kw_only=True)
class Targets(_Tensors):
    """Ground truth of a batch, padded to G slots an image: a power of two, so that few shapes occur."""

    boxes: Tensor
    """(B, G, 4) float32 in pixels of the resized (and flipped) image."""
    labels: Tensor
    """(B, G) int64, 1 and up; 0 in empty slots."""
    valid: Tensor
    """(B, G) bool, False in empty slots; the valid ones come first."""
    masks: Masks | None = None
    """Of the objects in the slots; None where not asked for."""


@dataclass(frozen=True, kw_only=True)
class Masks(_Tensors):
    """Which pixels belong to each object, as the run-length codes of the annotations: nothing is drawn.

    The pixel in row y and column x of slot g has the place ``starts[b, g] + rows[b, y] + columns[b, x]``. It
    belongs to the object if an odd number of `run_ends` are at most its place (``models.mask_targets``).
    """

    run_ends: Tensor
    """(E,) int64, ascending: ends of the runs of 0, 1, 0, ... of all objects, an even number for each. Padded
    with the largest int64 to a power of two, so that few shapes occur."""
    starts: Tensor
    """(B, G) int64, the place of the first pixel of the mask; behind all objects in empty slots."""
    rows: Tensor
    """(B, H) int64: how far down its column the pixel of the file lies that each row shows. Height times
    width of the file, which is behind the object, where the image is padded."""
    columns: Tensor
    """(B, W) int64: where the column of the file begins that each column shows, or the same."""


@dataclass(frozen=True, kw_only=True)
class Batch(_Tensors):
    """What the data loader yields: resized and flipped pixels, not yet normalised."""

    pixels: Tensor
    """(B, 3, H, W) in BGR order, zero beyond each image's own size; uint8, or float32 after augmentation.
    From the loader the channels of a pixel lie next to each other, as in a file."""
    sizes: Tensor
    """(B, 2) int64, height and width of the resized image before padding."""
    original_sizes: Tensor
    """(B, 2) int64, height and width of the image in its file."""
    scale_factors: Tensor
    """(B, 4) float32 for x1, y1, x2, y2: original pixels = resized pixels / factor, unrounded."""
    image_ids: Tensor
    """(B,) int64, the data set's own ids."""
    targets: Targets
    proposals: Proposals | None = None
    """Computed beforehand; None where the detector makes its own."""
    memory: Tensor | None = None
    """(bytes,) uint8 that all others are views of, which travels as one; None where each has its own."""

    @property
    def images(self) -> Images:
        """What a detector is given of it."""
        return Images(pixels=self.pixels, sizes=self.sizes, proposals=self.proposals)

    def packed(self) -> Self:
        """The same batch in one piece of memory. Tensors on the meta device, without values, become 0."""
        assert self.memory is None
        size = 0

        def place(tensor: Tensor) -> _Place:
            nonlocal size
            begin, size = size, size + -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
            return _Place.of(tensor, begin=begin)

        places = self._map(place)
        # NumPy gives pages that the system zeroes on first use; torch would wake its threads to write zeros.
        packed = places._filled(torch.from_numpy(np.zeros(size, np.uint8)))
        for target, source in zip(packed._tensors(), self._tensors(), strict=True):
            if source.device.type != "meta":
                target.copy_(source)
        return packed

    def to(self, device: torch.device) -> Self:
        """The same batch on `device`, in one copy if it lies in one piece of memory."""
        if self.memory is None:
            return super().to(device)
        memory = self.memory.to(device, non_blocking=True)
        return self if memory is self.memory else self._places()._filled(memory)

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory, in one copy if it lies in one piece of memory."""
        return (
            super().pin_memory() if self.memory is None else self._places()._filled(self.memory.pin_memory())
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Between processes each tensor would be a piece of shared memory with a descriptor of its own.
        if self.memory is None:
            return _rebuild, (vars(self),)
        return _rebuild, (vars(self._places()), self.memory)

    def _places(self) -> Self:
        """This batch with the `_Place` of each tensor instead of the tensor."""
        return replace(self, memory=None)._map(_Place.of)

    def _filled(self, memory: Tensor) -> Self:
        """What `_places` gave, with tensors in `memory`."""
        return replace(self._map(lambda place: place.view(memory)), memory=memory)

    def _tensors(self) -> Iterator[Tensor]:
        found: list[Tensor] = []
        replace(self, memory=None)._map(found.append)
        return iter(found)


def _rebuild(values: dict[str, Any], memory: Tensor | None = None) -> Batch:
    batch = Batch(**values)
    return batch if memory is None else batch._filled(memory)


@dataclass(frozen=True, kw_only=True)
class Images(_Tensors):
    """What a detector is given. It normalises the pixels."""

    pixels: Tensor
    """(B, 3, H, W) as in `Batch`; or normalised float32, zero (the mean colour) beyond each image's size."""
    sizes: Tensor
    """(B, 2) int64, height and width before padding."""
    proposals: Proposals | None = None
    """Computed beforehand; None where the detector makes its own."""


@dataclass(frozen=True, kw_only=True)
class Detections(_Tensors):
    """What a detector found in one image, best first."""

    boxes: Tensor
    """(K, 4) float32 in pixels of the original image."""
    scores: Tensor
    """(K,) float32."""
    labels: Tensor
    """(K,) int64, 1 and up; all 1 for proposals."""
    masks: Tensor | None = None
    """(K, M, M) float32, for each cell of the box the probability that it belongs to the object."""
