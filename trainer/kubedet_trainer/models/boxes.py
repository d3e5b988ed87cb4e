"""Boxes of the 2019 zoo: xyxy, inclusive pixel corners, so that width = x2 - x1 + 1 (`docs/zoo.md`, 0.4).

Every function works on any leading dimensions, in float32, and keeps all shapes static.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

UNIT_STDS = (1.0, 1.0, 1.0, 1.0)
"""Regression targets left as they are, as region proposal networks have them."""

MAX_LOG_RATIO = abs(math.log(16 / 1000))
"""Decoded sides differ from the box's by at most this, in natural logarithms (`docs/zoo.md`, 4.4)."""


def pairwise_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of each of (N, 4) `boxes` with each of (M, 4) `others`: (N, M)."""
    # In place and one axis after the other: a batch of anchors makes each (N, M) table 100 MB. Corners that
    # are contiguous are read many times faster than every fourth number.
    columns, other_columns = boxes.T.contiguous(), others.T.contiguous()
    intersection = _overlap(columns, other_columns, axis=0).mul_(_overlap(columns, other_columns, axis=1))
    union = (areas(boxes)[:, None] + areas(others)).sub_(intersection)
    return intersection.div_(union)


def _overlap(columns: Tensor, other_columns: Tensor, *, axis: int) -> Tensor:
    """Common pixels of boxes with others along x (0) or y (1), of (4, N) and (4, M) corners: (N, M)."""
    begin = torch.maximum(columns[axis, :, None], other_columns[axis])
    end = torch.minimum(columns[axis + 2, :, None], other_columns[axis + 2])
    return end.sub_(begin).add_(1).clamp_(min=0)


def areas(boxes: Tensor) -> Tensor:
    """Area in pixels of (..., 4) `boxes`: (...)."""
    return (boxes[..., 2] - boxes[..., 0] + 1) * (boxes[..., 3] - boxes[..., 1] + 1)


def exclusive_corners(boxes: Tensor) -> Tensor:
    """The same boxes with x2 and y2 one pixel further, as torchvision counts them."""
    return torch.cat([boxes[..., :2], boxes[..., 2:] + 1], dim=-1)


def encode(boxes: Tensor, targets: Tensor, *, stds: tuple[float, ...] = UNIT_STDS) -> Tensor:
    """The deltas dx, dy, dw, dh (..., 4) that move `boxes` onto `targets`, each divided by its std.

    Source: Ren et al., 2015; `docs/zoo.md`, 4.4.
    """
    centres, sides = _centres_and_sides(boxes)
    target_centres, target_sides = _centres_and_sides(targets)
    deltas = torch.cat([(target_centres - centres) / sides, torch.log(target_sides / sides)], dim=-1)
    return torch.stack([delta / std for delta, std in zip(deltas.unbind(-1), stds, strict=True)], dim=-1)


def decode(
    boxes: Tensor, deltas: Tensor, *, sizes: Tensor | None = None, stds: tuple[float, ...] = UNIT_STDS
) -> Tensor:
    """`boxes` moved by `deltas`, both (..., 4); clipped to `sizes` (..., 2), height and width.

    Sides below one pixel give x2 < x1, as the published models expect (`docs/zoo.md`, 4.4).
    """
    dx, dy, dw, dh = (delta * std for delta, std in zip(deltas.unbind(-1), stds, strict=True))
    centres, sides = _centres_and_sides(boxes)
    half_width = sides[..., 0] * dw.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() * 0.5
    half_height = sides[..., 1] * dh.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() * 0.5
    x = centres[..., 0] + sides[..., 0] * dx
    y = centres[..., 1] + sides[..., 1] * dy
    decoded = torch.stack(
        [x - half_width + 0.5, y - half_height + 0.5, x + half_width - 0.5, y + half_height - 0.5], dim=-1
    )
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
