"""Anchors: integer boxes around every cell of every pyramid level (`zoo.md` 4.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_CACHED_SHAPES = 8
"""Input shapes whose grids are kept: the largest take 4 MB each, and batches of few shapes alternate."""


def base_anchors(base_size: int, *, scales: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """The anchors (ratios * scales, 4) of the cell at the origin, ratios outermost, corners rounded.

    A ratio is height over width; a scale is the side of the square anchor in units of `base_size`.
    """
    centre = (base_size - 1) / 2
    roots = torch.tensor(ratios, dtype=torch.float32).sqrt()
    sizes = base_size * torch.tensor(scales, dtype=torch.float32)
    widths = (sizes / roots[:, None]).flatten()
    heights = (sizes * roots[:, None]).flatten()
    half_sides = torch.stack([(widths - 1) / 2, (heights - 1) / 2], dim=-1)
    return torch.cat([centre - half_sides, centre + half_sides], dim=-1).round()


class AnchorGrid(nn.Module):
    """All anchors of a pyramid whose level i has stride ``strides[i]``, which is also its base size.

    The anchors are ordered by level, row, column, and then as in `base_anchors`. They are no weights: nothing
    of this module is in a state dict.
    """

    def __init__(self, *, strides: Sequence[int], scales: Sequence[float], ratios: Sequence[float]) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.num_per_cell = len(scales) * len(ratios)
        for level, stride in enumerate(self.strides):
            base = base_anchors(stride, scales=scales, ratios=ratios)
            self.register_buffer(f"base_{level}", base, persistent=False)
        self._cache: dict[tuple[torch.device, tuple[torch.Size, ...]], Tensor] = {}

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """The anchors (A, 4) for `features`, one (B, C, h, w) a level; kept for the next such call."""
        key = (features[0].device, tuple(feature.shape[-2:] for feature in features))
        if key not in self._cache:
            if len(self._cache) == _CACHED_SHAPES:
                del self._cache[next(iter(self._cache))]
            self._cache[key] = torch.cat([self._level(i, shape) for i, shape in enumerate(key[1])])
        return self._cache[key]

    def _level(self, level: int, shape: torch.Size) -> Tensor:
        base = self.get_buffer(f"base_{level}")
        stride = self.strides[level]
        rows = torch.arange(shape[0], device=base.device, dtype=base.dtype) * stride
        columns = torch.arange(shape[1], device=base.device, dtype=base.dtype) * stride
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        shifts = torch.stack([x, y, x, y], dim=-1)
        return (shifts[:, :, None] + base).reshape(-1, 4)
