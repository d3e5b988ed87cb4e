"""What the mask of a region should be: its part of the ground truth's mask, resized (`docs/zoo.md`, 5.5).

The zoo did this on the host, with ``cv2.resize(crop, (size, size))`` of a uint8 map of zeros and ones. Here
the same fixed-point arithmetic runs on the device, on run-length codes and with static shapes, and its result
is equal bit for bit: constants and roundings are those of OpenCV's bilinear resize of bytes. Only the pixels
that the result depends on are looked up; no mask is drawn.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kubedet_trainer.models import host
from kubedet_trainer.structures import Masks

_ONE = 2048
"""A weight of 1: OpenCV keeps 11 bits of each."""


def mask_targets(masks: Masks, gt_slots: Tensor, boxes: Tensor, *, size: int) -> Tensor:
    """The map of each of (B, R, 4) `boxes` in ground truth `gt_slots` (B, R): (B, R, size, size) bool.

    Corners are truncated to integers.
    """
    height, width = masks.rows.shape[1], masks.columns.shape[1]
    corners = boxes.long().movedim(-1, 0)
    limits = host.constant((width, height), boxes.device, dtype=torch.int64)[:, None, None]
    (columns, rows), weights = _taps(corners[:2], corners[2:], size=size, limits=limits)
    bits = read_pixels(masks, gt_slots, rows=rows.flatten(2), columns=columns.flatten(2))
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


def read_pixels(masks: Masks, gt_slots: Tensor, *, rows: Tensor, columns: Tensor) -> Tensor:
    """(B, R, Y, X) int32: 1 where an object has the pixel at a row and a column of its image, else 0.

    Args:
        masks: of G ground truths of each image.
        gt_slots: (B, R) int64, which of them is looked at.
        rows: (B, R, Y) int64.
        columns: (B, R, X) int64.
    """
    down = masks.rows.gather(1, rows.flatten(1)).view_as(rows) + masks.starts.gather(1, gt_slots)[..., None]
    right = masks.columns.gather(1, columns.flatten(1)).view_as(columns)
    places = down[..., :, None] + right[..., None, :]
    return torch.searchsorted(masks.run_ends, places, right=True, out_int32=True) & 1
