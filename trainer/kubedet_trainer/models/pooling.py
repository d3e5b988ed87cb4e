"""The cells of a pyramid as one table, and regions pooled from it, each from the level of its size.

A pooled value is a weighted sum of cells. With those of all levels and images in one table a region's level
is only an offset into it: nothing is computed for levels that a region is not on, no count has to be
known on the host, and the sums are added in the same order in every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kubedet_trainer.models import boxes as box_ops


@dataclass(frozen=True, kw_only=True)
class Maps:
    """Where each of (...) lies in a table of cells: a map is one level of one image. All are int32."""

    first_cells: Tensor
    """(...), where its map begins in the table."""
    heights: Tensor
    """(...), of its map in cells."""
    widths: Tensor
    """(...)."""


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The cells of all levels and images as one table, ordered by level, image, row and column."""

    table: Tensor
    """(M, C)."""
    begins: list[int]
    """Where each level begins in the table."""
    sizes: list[tuple[int, int]]
    """Height and width of each level."""

    def maps(self, levels: Tensor, images: Tensor) -> Maps:
        """The maps of (...) int64 `levels` and `images`, which may broadcast to it."""
        heights = of_level(levels, [height for height, _ in self.sizes])
        widths = of_level(levels, [width for _, width in self.sizes])
        first_cells = of_level(levels, self.begins) + images.int() * heights * widths
        return Maps(first_cells=first_cells, heights=heights, widths=widths)


@dataclass(frozen=True, kw_only=True)
class Regions:
    """N regions and where each is pooled from."""

    cells: Cells
    levels: Tensor
    """(N,) int64, from 0, the finest."""
    maps: Maps
    """Of (N,)."""
    strides: Tensor
    """(N,) int32, pixels of a cell's side."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Where along one axis the bins of N regions are sampled, S times each.

    Both shapes are (N, P, P, S), or with 1 for a dimension of P along which nothing changes.
    """

    positions: Tensor
    """In cells: k is the middle of cell k. Those beyond the outermost cells count as the nearest one."""
    shares: Tensor
    """What each contributes to its bin."""


def map_levels(boxes: Tensor, *, num_levels: int, finest_roi: float) -> Tensor:
    """The level of each of (..., 4) `boxes`, int64 from 0, the finest: one coarser for each doubled side.

    Level 0 takes regions of a side below ``2 * finest_roi`` pixels (Lin et al., 2016; `docs/zoo.md`, 5.1).
    """
    octaves = torch.log2(box_ops.areas(boxes).sqrt() / finest_roi + 1e-6).floor()
    return octaves.clamp(0, num_levels - 1).nan_to_num(0).long()


def of_level(levels: Tensor, values: Sequence[int]) -> Tensor:
    """The value of the level of each of (...) `levels`: int32, with no constant to copy to the device."""
    result = torch.full_like(levels, values[0], dtype=torch.int32)
    for level, value in enumerate(values):
        result = result.masked_fill(levels == level, value)
    return result


def tabulate(features: Sequence[Tensor], dtype: torch.dtype) -> Cells:
    """The cells of `features`, one (B, C, h, w) a level."""
    levels = [feature.permute(0, 2, 3, 1).flatten(0, 2) for feature in features]
    return Cells(
        table=torch.cat(levels).to(dtype),
        begins=[sum(map(len, levels[:level])) for level in range(len(levels))],
        sizes=[(feature.shape[2], feature.shape[3]) for feature in features],
    )


def place(features: Sequence[Tensor], boxes: Tensor, *, strides: Sequence[int], finest_roi: float) -> Regions:
    """The regions of (B, R, 4) `boxes`, N = B * R, on the first of `features`, which have `strides`."""
    levels = map_levels(boxes, num_levels=len(strides), finest_roi=finest_roi).flatten()
    images = torch.arange(len(boxes), device=boxes.device)[:, None].expand(boxes.shape[:2]).flatten()
    cells = tabulate(features[: len(strides)], boxes.dtype)
    return Regions(
        cells=cells, levels=levels, maps=cells.maps(levels, images), strides=of_level(levels, strides)
    )


def spread(bins: int, *, samples: int, axis: int, like: Tensor) -> Tensor:
    """How far along a region each of its samples lies, evenly from 0 on: (1, 1, P, S) along x, axis 0.

    Along y, axis 1, it is (1, P, 1, S). Dtype and device are those of `like`.
    """
    fractions = torch.arange(bins * samples, dtype=like.dtype, device=like.device) / (bins * samples)
    return fractions.view(1, 1, bins, samples) if axis == 0 else fractions.view(1, bins, 1, samples)


def pool(regions: Regions, *, x: Samples, y: Samples) -> Tensor:
    """The bins (N, C, P, P): sums over the S x S samples of each.

    Gradients reach the maps, and positions and shares where they need any.
    """
    maps = regions.maps
    columns, column_weights = _taps(x, maps.widths)
    rows, row_weights = _taps(y, maps.heights)
    rows = _per_region(maps.first_cells) + rows * _per_region(maps.widths)
    index = rows[..., :, None] + columns[..., None, :]
    weights = row_weights[..., :, None] * column_weights[..., None, :]
    bags = index.flatten(-2).flatten(0, 2)
    table = regions.cells.table
    pooled: Tensor = F.embedding_bag(bags, table, per_sample_weights=weights.reshape(bags.shape), mode="sum")
    return pooled.view(*index.shape[:3], table.shape[1]).permute(0, 3, 1, 2).contiguous()


def patches(features: Sequence[Tensor], *, levels: Tensor, cells: Tensor) -> Tensor:
    """The 3x3 cells around each of (B, S) `cells`, counted row by row on its level: (B, S, 9 C).

    Ordered by row, column and channel; cells beyond a map are zero, as a convolution pads it.
    """
    table = tabulate(features, features[0].dtype)
    images = torch.arange(len(cells), device=cells.device)[:, None]
    maps = table.maps(levels, images)
    neighbours = torch.arange(-1, 2, device=cells.device)
    rows = (cells // maps.widths)[..., None, None] + neighbours[:, None]
    columns = (cells % maps.widths)[..., None, None] + neighbours
    on_map = (rows >= 0) & (rows < maps.heights[..., None, None])
    on_map = on_map & (columns >= 0) & (columns < maps.widths[..., None, None])
    index = maps.first_cells[..., None, None] + rows * maps.widths[..., None, None] + columns
    found = F.embedding(index.where(on_map, 0), table.table)
    return found.masked_fill(~on_map[..., None], 0).flatten(2)


def _taps(samples: Samples, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """The two cells around each sample, int32, and the weight of each: (N, P, P, 2 S)."""
    last = _per_region(sizes - 1).to(samples.positions.dtype)
    # Without this a detector that has diverged would address cells that do not exist.
    positions = torch.minimum(samples.positions.clamp(min=0), last).nan_to_num(0)
    before = positions.detach().floor()
    fraction = positions - before
    cells = torch.cat([before, torch.minimum(before + 1, last)], dim=-1).int()
    return cells, torch.cat([(1 - fraction) * samples.shares, fraction * samples.shares], dim=-1)


def _per_region(values: Tensor) -> Tensor:
    """(N,) `values` as (N, 1, 1, 1)."""
    return values[:, None, None, None]
