"""Anchors: integer boxes around every cell of every pyramid level (`docs/zoo.md`, 4.2 and 8)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_CACHED_SHAPES = 8
"""Input shapes whose grids are kept: the largest take 4 MB each, and batches of few shapes alternate."""


def base_anchors(base_size: int, *, scales: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """The anchors (ratios * scales, 4) of the cell at the origin, ratios outermost, corners rounded.

    A ratio is height over width; a scale is the side of the square anchor in units of `base_size`.
    """
    roots = torch.tensor(ratios, dtype=torch.float32).sqrt()
    sizes = base_size * torch.tensor(scales, dtype=torch.float32)
    return _around_cell(base_size, widths=sizes / roots[:, None], heights=sizes * roots[:, None])


def pyramid_anchors(
    strides: Sequence[int], *, scales: Sequence[float], ratios: Sequence[float]
) -> list[Tensor]:
    """The `base_anchors` of a pyramid: a level's stride is its base size."""
    return [base_anchors(stride, scales=scales, ratios=ratios) for stride in strides]


def single_shot_anchors(stride: int, *, size: int, next_size: int, largest_ratio: int) -> Tensor:
    """The anchors (2 * largest_ratio, 4) of the single shot detector in the cell at the origin.

    First come the square of side `size` and the one between it and `next_size`, then those of the first one's
    area with the ratios 1/2, 2, 1/3, 3, up to `largest_ratio` (`docs/zoo.md`, 8).
    """
    ratios = [ratio for whole in range(2, largest_ratio + 1) for ratio in (1 / whole, whole)]
    roots = torch.tensor([1, 1, *ratios], dtype=torch.float32).sqrt()
    sides = torch.tensor([size, math.sqrt(size * next_size), *[size] * len(ratios)], dtype=torch.float32)
    return _around_cell(stride, widths=sides / roots, heights=sides * roots)


def _around_cell(stride: int, *, widths: Tensor, heights: Tensor) -> Tensor:
    """Boxes of these sides around the centre of the cell at the origin; corners rounded, half to even."""
    centre = (stride - 1) / 2
    half_sides = torch.stack([(widths.flatten() - 1) / 2, (heights.flatten() - 1) / 2], dim=-1)
    return torch.cat([centre - half_sides, centre + half_sides], dim=-1).round()


class AnchorGrid(nn.Module):
    """All anchors of a detector: those of one cell of each level, at every cell.

    They are ordered by level, row, column, and then as given. They are no weights: nothing of this module is
    in a state dict.
    """

    def __init__(self, *, strides: Sequence[int], bases: Sequence[Tensor]) -> None:
        """Level i has stride ``strides[i]`` and the anchors ``bases[i]`` (A, 4) in the cell at the origin."""
        super().__init__()
        self.strides = tuple(strides)
        self.num_per_cell = [len(base) for base in bases]
        for level, base in enumerate(bases):
            self.register_buffer(f"base_{level}", base, persistent=False)
        self._cache: dict[tuple[torch.device, tuple[torch.Size, ...]], tuple[Tensor, Tensor]] = {}

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """The anchors (A, 4) for `features`, one (B, C, h, w) a level; kept for the next such call."""
        return self._grid(features)[0]

    def within(self, sizes: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Which anchors belong to cells that begin in images of (B, 2) `sizes`, height and width: (B, A)."""
        return (self._grid(features)[1] < sizes.flip(-1)[:, None]).all(dim=-1)

    def _grid(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The anchors (A, 4), and where the cell of each begins (A, 2), x and y in pixels."""
        key = (features[0].device, tuple(feature.shape[-2:] for feature in features))
        if key not in self._cache:
            if len(self._cache) == _CACHED_SHAPES:
                del self._cache[next(iter(self._cache))]
            levels = [self._level(level, shape) for level, shape in enumerate(key[1])]
            anchors, cells = (self._arrange(parts) for parts in zip(*levels, strict=True))
            self._cache[key] = anchors, cells
        return self._cache[key]

    def _arrange(self, levels: Sequence[Tensor]) -> Tensor:
        """What belongs to the anchors (h, w, A, D) of each level as (N, D)."""
        return torch.cat([level.flatten(0, 2) for level in levels])

    def _level(self, level: int, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """The anchors (h, w, A, 4) of a level, and where the cell of each begins (h, w, A, 2)."""
        base = self.get_buffer(f"base_{level}")
        stride = self.strides[level]
        rows = torch.arange(shape[0], device=base.device, dtype=base.dtype) * stride
        columns = torch.arange(shape[1], device=base.device, dtype=base.dtype) * stride
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        cells = torch.stack([x, y], dim=-1)[:, :, None].expand(-1, -1, len(base), -1)
        return cells.repeat(1, 1, 1, 2) + base, cells
