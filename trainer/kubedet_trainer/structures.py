"""The tensors that pass between data, models and the loop. Shapes are static within a run of one batch size.

Legend of the suffixes: B images of a batch, G padded ground-truth slots of an image, H and W padded pixels,
K detections of an image. Boxes are xyxy in absolute pixels with inclusive corners (width = x2 - x1 + 1), as
everywhere in the 2019 zoo; label 0 is the background.
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
        return type(self)(**{item.name: function(getattr(self, item.name)) for item in fields(self)})

    def to(self, device: torch.device) -> Self:
        """The same record on `device`; from pinned memory the copy does not block."""
        return self._map(lambda value: _to(value, device))

    def pin_memory(self) -> Self:
        """The same record in page-locked memory; `torch.utils.data.DataLoader` calls this."""
        return self._map(lambda value: value.pin_memory())


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value.to(device)


@dataclass(frozen=True, kw_only=True)
class Targets(_Tensors):
    """Ground truth of a batch, padded to G slots an image; G is the same for the whole data set."""

    boxes: Tensor
    """(B, G, 4) float32 in pixels of the resized (and flipped) image."""
    labels: Tensor
    """(B, G) int64, 1 and up; 0 in empty slots."""
    valid: Tensor
    """(B, G) bool, False in empty slots; the valid ones come first."""


@dataclass(frozen=True, kw_only=True)
class Batch(_Tensors):
    """What the data loader yields: resized and flipped pixels, not yet normalised."""

    pixels: Tensor
    """(B, 3, H, W) uint8 in BGR order, zero beyond each image's own size."""
    sizes: Tensor
    """(B, 2) int64, height and width of the resized image before padding."""
    scale_factors: Tensor
    """(B,) float32, the unrounded resize factor: original pixels = resized pixels / factor."""
    image_ids: Tensor
    """(B,) int64, the data set's own ids."""
    targets: Targets


@dataclass(frozen=True, kw_only=True)
class Images(_Tensors):
    """What a detector sees."""

    pixels: Tensor
    """(B, 3, H, W) float32, normalised; zero (the mean colour) beyond each image's own size."""
    sizes: Tensor
    """(B, 2) int64, height and width before padding."""


@dataclass(frozen=True, kw_only=True)
class Detections(_Tensors):
    """What a detector found in one image, best first."""

    boxes: Tensor
    """(K, 4) float32 in pixels of the original image."""
    scores: Tensor
    """(K,) float32."""
    labels: Tensor
    """(K,) int64, 1 and up; all 1 for proposals."""
