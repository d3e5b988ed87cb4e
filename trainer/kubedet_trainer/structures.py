"""The tensors that pass between data, models and the loop. Few shapes occur within a run.

Legend of the suffixes: B images of a batch, G padded ground-truth slots of an image, P padded proposals of an
image, H and W padded pixels, K detections of an image. Boxes are xyxy in absolute pixels with inclusive
corners (width = x2 - x1 + 1), as everywhere in the 2019 zoo; label 0 is the background.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class _Tensors:
    """A record of tensors (and of such records) that moves between devices as one."""

    def _map(self, function: Any) -> Self:
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return type(self)(
            **{name: None if value is None else function(value) for name, value in values.items()}
        )

    def to(self, device: torch.device) -> Self:
        """The same record on `device`; from pinned memory the copy does not block."""
        return self._map(lambda value: _to(value, device))

    def pin_memory(self) -> Self:
        """The same record in page-locked memory; `torch.utils.data.DataLoader` calls this."""
        return self._map(lambda value: value.pin_memory())


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value.to(device)


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
    masks: Tensor | None = None
    """(B, G, H, W / 8) uint8, a bit a pixel in the order of `numpy.packbits`; None where not asked for."""


@dataclass(frozen=True, kw_only=True)
class Batch(_Tensors):
    """What the data loader yields: resized and flipped pixels, not yet normalised."""

    pixels: Tensor
    """(B, 3, H, W) in BGR order, zero beyond each image's own size; uint8, or float32 after augmentation."""
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

    @property
    def images(self) -> Images:
        """What a detector is given of it."""
        return Images(pixels=self.pixels, sizes=self.sizes, proposals=self.proposals)


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
