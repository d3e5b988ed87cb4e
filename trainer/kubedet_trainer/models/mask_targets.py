"""What the mask of a region should be: its part of the ground truth's mask, resized (`docs/zoo.md`, 5.5).

The zoo did this on the host, with ``cv2.resize(crop, (size, size))`` of a uint8 map of zeros and ones. Here
the same fixed-point arithmetic runs on the device, on packed bits and with static shapes, and its result is
equal bit for bit: constants and roundings are those of OpenCV's bilinear resize of bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kubedet_trainer.models import host

_ONE = 2048
"""A weight of 1: OpenCV keeps 11 bits of each."""


def mask_targets(masks: Tensor, gt_slots: Tensor, boxes: Tensor, *, size: int) -> Tensor:
    """The map of each of (B, R, 4) `boxes` in ground truth `gt_slots` (B, R): (B, R, size, size) bool.

    `masks` are packed bits (B, G, H, W / 8), as in `structures.Targets`. Corners are truncated to integers.
    """
    height, width = masks.shape[2], masks.shape[3] * 8
    corners = boxes.long().movedim(-1, 0)
    limits = host.constant((width, height), boxes.device, dtype=torch.int64)[:, None, None]
    (columns, rows), weights = _taps(corners[:2], corners[2:], size=size, limits=limits)
    image = torch.arange(masks.shape[0], device=masks.device)[:, None]
    plane = (image * masks.shape[1] + gt_slots)[..., None, None]
    bits = _read_bits(masks, plane, rows.flatten(2)[..., :, None], columns.flatten(2)[..., None, :])
    taps = bits.view(*boxes.shape[:2], size, 2, size, 2)  # a row and its tap, a column and its tap
    of_rows = (taps * weights[0, :, :, None, None]).sum(dim=-1) >> 4
    of_taps = (of_rows * weights[1, ..., None]) >> 16
    return of_taps.sum(dim=3).ge(2)  # OpenCV adds 2 and drops the last two bits


def _taps(begins: Tensor, ends: Tensor, *, size: int, limits: Tensor) -> tuple[Tensor, Tensor]:
    """The two pixels that each output is mixed from, (2, B, R, size, 2) int64, and their int32 weights.

    The crop goes from `begins` to `ends`, both inclusive (2, B, R) int64, along x and y, and stops before
    `limits`.
    """
    side = (torch.minimum(ends, limits - 1) - begins + 1).clamp(min=1)
    outputs = torch.arange(size, device=begins.device, dtype=torch.float64)
    centres = ((outputs + 0.5) * (1 / (size / side[..., None].double())) - 0.5).float()
    first = centres.floor()
    of_second = ((centres - first) * _ONE).round().int()
    weights = torch.stack([_ONE - of_second, of_second], dim=-1)
    taps = torch.stack([first, first + 1], dim=-1).long().clamp(min=0)
    taps = torch.minimum(taps, side[..., None, None] - 1) + begins[..., None, None]
    return torch.minimum(taps.clamp(min=0), (limits - 1)[..., None, None]), weights


def _read_bits(masks: Tensor, plane: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The pixels at `rows` and `columns` of each `plane` of packed `masks`, as int32 of the common shape."""
    packed = masks.flatten().take((plane * masks.shape[2] + rows) * masks.shape[3] + (columns >> 3))
    return (packed.int() >> (7 - (columns & 7)).int()) & 1
