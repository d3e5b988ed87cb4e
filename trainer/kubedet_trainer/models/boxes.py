"""Boxes of the 2019 zoo: xyxy, inclusive pixel corners, so that width = x2 - x1 + 1 (`docs/zoo.md`, 0.4).

Every function works on any leading dimensions, in float32, and keeps all shapes static.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kubedet_trainer.models import host

MAX_LOG_RATIO = abs(math.log(16 / 1000))
"""Decoded sides differ from the box's by at most this, in natural logarithms (`docs/zoo.md`, 4.4)."""


def pairwise_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of (..., N, 4) `boxes` with (..., M, 4) `others`, all pairs: (..., N, M)."""
    # In place and one axis after the other: a batch of anchors makes each (N, M) table 100 MB. Corners that
    # are contiguous are read many times faster than every fourth number.
    columns, other_columns = boxes.mT.contiguous(), others.mT.contiguous()
    intersection = _overlap(columns, other_columns, axis=0).mul_(_overlap(columns, other_columns, axis=1))
    union = (areas(boxes)[..., None] + areas(others)[..., None, :]).sub_(intersection)
    return intersection.div_(union)


def _overlap(columns: Tensor, other_columns: Tensor, *, axis: int) -> Tensor:
    """Common pixels of boxes with others along x (0) or y (1), of (..., 4, N) and (..., 4, M) corners."""
    begins, ends = (
        (columns[..., corner, :, None], other_columns[..., corner, None, :]) for corner in (axis, axis + 2)
    )
    return torch.minimum(*ends).sub_(torch.maximum(*begins)).add_(1).clamp_(min=0)


def areas(boxes: Tensor) -> Tensor:
    """Area in pixels of (..., 4) `boxes`: (...)."""
    sides = boxes[..., 2:] - boxes[..., :2] + 1
    return sides[..., 0] * sides[..., 1]


def exclusive_corners(boxes: Tensor) -> Tensor:
    """The same boxes with x2 and y2 one pixel further, as torchvision counts them."""
    return torch.cat([boxes[..., :2], boxes[..., 2:] + 1], dim=-1)


def encode(boxes: Tensor, targets: Tensor, *, stds: tuple[float, ...] | None = None) -> Tensor:
    """The deltas dx, dy, dw, dh (..., 4) that move `boxes` onto `targets`, each divided by its std if given.

    Source: Ren et al., 2015; `docs/zoo.md`, 4.4.
    """
    centres, sides = _centres_and_sides(boxes)
    target_centres, target_sides = _centres_and_sides(targets)
    deltas = torch.cat([(target_centres - centres) / sides, torch.log(target_sides / sides)], dim=-1)
    return deltas if stds is None else deltas / host.constant(stds, deltas.device)


def decode(
    boxes: Tensor, deltas: Tensor, *, sizes: Tensor | None = None, stds: tuple[float, ...] | None = None
) -> Tensor:
    """`boxes` moved by `deltas`, both (..., 4); clipped to `sizes` (..., 2), height and width.

    `stds` are those of `encode`. Sides below one pixel give x2 < x1, as the published models expect
    (`docs/zoo.md`, 4.4).
    """
    if stds is not None:
        deltas = deltas * host.constant(stds, deltas.device)
    centres, sides = _centres_and_sides(boxes)
    moved = centres + sides * deltas[..., :2]
    half_sides = sides * deltas[..., 2:].clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() * 0.5
    decoded = torch.cat([moved - half_sides + 0.5, moved + half_sides - 0.5], dim=-1)
    return decoded if sizes is None else clip(decoded, sizes)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """(..., 4) `boxes` clamped to the pixels of images of `sizes` (..., 2), height and width."""
    last = (sizes.flip(-1) - 1).to(boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), torch.cat([last, last], dim=-1))


def inside(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Which of (..., 4) `boxes` lie wholly in images of `sizes` (..., 2), height and width: (...) bool."""
    begins = (boxes[..., 0] >= 0) & (boxes[..., 1] >= 0)
    return begins & (boxes[..., 2] < sizes[..., 1]) & (boxes[..., 3] < sizes[..., 0])


def _centres_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    begin, end = boxes[..., :2], boxes[..., 2:]
    return (begin + end) * 0.5, end - begin + 1
