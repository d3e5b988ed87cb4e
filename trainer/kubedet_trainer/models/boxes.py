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
    # In place: a batch of anchors makes each (N, M) table 10 MB and more. Corners that are contiguous are
    # read many times faster than every fourth number.
    columns, other_columns = boxes.mT.contiguous(), others.mT.contiguous()
    begins, ends = columns[..., :2, :, None], columns[..., 2:, :, None]
    other_begins, other_ends = other_columns[..., :2, None, :], other_columns[..., 2:, None, :]
    sides = torch.minimum(ends, other_ends).sub_(torch.maximum(begins, other_begins)).add_(1).clamp_(min=0)
    intersection = sides[..., 0, :, :].mul_(sides[..., 1, :, :])
    union = (areas(boxes)[..., None] + areas(others)[..., None, :]).sub_(intersection)
    return intersection.div_(union)


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
    (centres, target_centres), (sides, target_sides) = _centres_and_sides(
        torch.stack([boxes.expand_as(targets), targets])
    )
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
    corners = host.constant((1, 0, 1, 0), sizes.device, dtype=torch.int64)
    return torch.minimum(boxes.clamp(min=0), sizes.index_select(-1, corners) - 1.0)


def inside(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Which of (..., 4) `boxes` lie wholly in images of `sizes` (..., 2), height and width: (...) bool."""
    return ((boxes[..., :2] >= 0) & (boxes[..., 2:] < sizes.flip(-1))).all(dim=-1)


def _centres_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    begin, end = boxes[..., :2], boxes[..., 2:]
    return (begin + end) * 0.5, end - begin + 1
