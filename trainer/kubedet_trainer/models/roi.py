"""Features of regions, pooled from the pyramid level that fits their size (`zoo.md` 5.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from kubedet_trainer.models import boxes as box_ops

_SAMPLES_PER_BIN = 2
_FAR_OUTSIDE = -1e5
"""A coordinate so far beyond every image that pooling there yields zero and no gradient."""


def map_levels(boxes: Tensor, *, num_levels: int, finest_roi: float) -> Tensor:
    """The level of each of (..., 4) `boxes`, int64 from 0, the finest: one coarser for each doubled side.

    Level 0 takes regions of a side below ``2 * finest_roi`` pixels.
    """
    sides = box_ops.areas(boxes).sqrt()
    return torch.floor(torch.log2(sides / finest_roi + 1e-6)).clamp(0, num_levels - 1).long()


def build_roi_extractor(
    *, kind: str, channels: int, strides: Sequence[int], size: int, finest_roi: float, offset_channels: int
) -> nn.Module:
    """What pools regions from levels of `channels`; `config.RoiConfig` explains the other options.

    Calling it with the levels and (B, R, 4) boxes gives (B * R, channels, size, size).
    """
    return RoiAlign(size=size, strides=strides, finest_roi=finest_roi)


class RoiAlign(nn.Module):
    """Pools regions to `size` x `size` bins, as the 2018 operator did: two samples a side of a bin."""

    def __init__(self, *, size: int, strides: Sequence[int], finest_roi: float) -> None:
        """For levels of `strides`; `finest_roi` as in `map_levels`."""
        super().__init__()
        self.size = size
        self.strides = tuple(strides)
        self.finest_roi = finest_roi

    def forward(self, features: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """The features (B * R, C, size, size) of (B, R, 4) `boxes` in pixels, in their order.

        Every level pools all regions, those of other levels far outside where they cost next to nothing: to
        pick them out would need to know on the host how many there are.
        """
        levels = map_levels(boxes, num_levels=len(self.strides), finest_roi=self.finest_roi).flatten()
        batch, regions = boxes.shape[:2]
        image = torch.arange(batch, device=boxes.device, dtype=boxes.dtype)
        image = image[:, None].expand(batch, regions).reshape(-1, 1)
        corners = _legacy_corners(boxes).flatten(0, 1)
        pooled: Tensor | None = None
        for level, stride in enumerate(self.strides):
            placed = torch.where((levels == level)[:, None], corners + stride / 2, _FAR_OUTSIDE)
            of_level = roi_align(
                features[level],
                torch.cat([image, placed], dim=1),
                output_size=self.size,
                spatial_scale=1 / stride,
                sampling_ratio=_SAMPLES_PER_BIN,
                aligned=True,
            )
            pooled = of_level if pooled is None else pooled + of_level
        assert pooled is not None
        return pooled


def _legacy_corners(boxes: Tensor) -> Tensor:
    """Exclusive corners, of no negative side: the old operator clamped those, torchvision's does not.

    The old operator also had no half-pixel shift; adding half a stride to the result undoes torchvision's.
    """
    begin = boxes[..., :2]
    return torch.cat([begin, torch.maximum(boxes[..., 2:] + 1, begin)], dim=-1)
