"""The cells of a pyramid as one table, and regions pooled from it, each from the level of its size.

A pooled value is a weighted sum of cells. With those of all levels and images in one table a region's level
is only an offset into it: nothing is computed for levels that a region is not on, no count has to be
known on the host, and the sums are added in the same order in every run.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kubedet_trainer.models import boxes as box_ops
from kubedet_trainer.models import host


@dataclass(frozen=True, kw_only=True)
class Maps:
    """Where each of (...) lies in a table of cells: a map is one level of one image. All are int32."""

    first_cells: Tensor
    """(...), where its map begins in the table."""
    sizes: Tensor
    """(2, ...), width and height of its map in cells."""


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The cells of all images and levels as one table, ordered by image, level, row and column."""

    table: Tensor
    """(B, M, C)."""
    begins: tuple[int, ...]
    """Where each level begins among the M cells of an image."""
    heights: tuple[int, ...]
    """Of each level."""
    widths: tuple[int, ...]
    """Of each level."""

    def maps(self, levels: Tensor, images: Tensor) -> Maps:
        """The maps of (...) int64 `levels` and `images`, which may broadcast to it."""
        of_map = of_levels(levels, self.widths, self.heights, self.begins)
        return Maps(first_cells=of_map[2] + images.int() * self.table.shape[1], sizes=of_map[:2])


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
    """Where the bins of N regions are sampled, S times each, along x (0) and along y (1).

    Both shapes are (2, N, P, P, S) for P rows and P columns of bins, or (2, N, P, S) where x depends on the
    column alone and y on the row.
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


def of_levels(levels: Tensor, *properties: tuple[int, ...]) -> Tensor:
    """Each of P `properties`, which have a value a level, of each of (...) `levels`: (P, ...) int32."""
    values = host.constant(sum(properties, ()), levels.device, dtype=torch.int32)
    return values.view(len(properties), -1)[:, levels]


def tabulate(features: Sequence[Tensor], dtype: torch.dtype) -> Cells:
    """The cells of `features`, one (B, C, h, w) a level."""
    counts = [feature.shape[2] * feature.shape[3] for feature in features]
    return Cells(
        table=torch.cat([feature.flatten(2).mT for feature in features], dim=1).to(dtype),
        begins=(0, *itertools.accumulate(counts[:-1])),
        heights=tuple(feature.shape[2] for feature in features),
        widths=tuple(feature.shape[3] for feature in features),
    )


def place(features: Sequence[Tensor], boxes: Tensor, *, strides: Sequence[int], finest_roi: float) -> Regions:
    """The regions of (B, R, 4) `boxes`, N = B * R, on the first of `features`, which have `strides`."""
    levels = map_levels(boxes, num_levels=len(strides), finest_roi=finest_roi).flatten()
    images = torch.arange(len(boxes), device=boxes.device)[:, None].expand(boxes.shape[:2]).flatten()
    cells = tabulate(features[: len(strides)], boxes.dtype)
    return Regions(
        cells=cells,
        levels=levels,
        maps=cells.maps(levels, images),
        strides=of_levels(levels, tuple(strides))[0],
    )


def spread(bins: int, *, samples: int, like: Tensor) -> Tensor:
    """How far along a region each of its samples lies, evenly from 0 on: (P, S), of the dtype of `like`."""
    fractions = torch.arange(bins * samples, dtype=like.dtype, device=like.device) / (bins * samples)
    return fractions.view(bins, samples)


def pool(regions: Regions, samples: Samples) -> Tensor:
    """The bins (N, C, P, P): sums over the S x S samples of each.

    Gradients reach the maps, and positions and shares where they need any.
    """
    maps = regions.maps
    (columns, rows), (column_weights, row_weights) = (_on_grid(taps) for taps in _taps(samples, maps.sizes))
    rows = _per_region(maps.first_cells) + rows * _per_region(maps.sizes[0])
    index = rows[..., :, None] + columns[..., None, :]
    weights = row_weights[..., :, None] * column_weights[..., None, :]
    bags = index.flatten(-2).flatten(0, 2)
    table = regions.cells.table.flatten(0, 1)
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
    widths, heights = maps.sizes[..., None, None]
    rows = (cells[..., None, None] // widths) + neighbours[:, None]
    columns = (cells[..., None, None] % widths) + neighbours
    on_map = (rows >= 0) & (rows < heights) & (columns >= 0) & (columns < widths)
    index = maps.first_cells[..., None, None] + rows * widths + columns
    found = F.embedding(index.where(on_map, 0), table.table.flatten(0, 1))
    return found.masked_fill(~on_map[..., None], 0).flatten(2)


def _taps(samples: Samples, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """The two cells around each sample, int32, and the weight of each: (..., 2 S) for (..., S) samples."""
    positions = samples.positions
    last = (sizes - 1).to(positions.dtype).view(*sizes.shape, *[1] * (positions.ndim - 2))
    # Without this a detector that has diverged would address cells that do not exist.
    positions = torch.minimum(positions.clamp(min=0), last).nan_to_num(0)
    before = positions.detach().floor()
    fraction = positions - before
    cells = torch.cat([before, torch.minimum(before + 1, last)], dim=-1).int()
    return cells, torch.cat([(1 - fraction) * samples.shares, fraction * samples.shares], dim=-1)


def _on_grid(taps: Tensor) -> tuple[Tensor, Tensor]:
    """What belongs to x and what to y, each (N, P, P, 2 S), or with 1 where it does not change."""
    along_x, along_y = taps
    return (along_x, along_y) if taps.ndim == 5 else (along_x[:, None], along_y[:, :, None])


def _per_region(values: Tensor) -> Tensor:
    """(N,) `values` as (N, 1, 1, 1)."""
    return values[:, None, None, None]
