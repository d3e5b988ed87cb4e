"""Bilinear samples of a pyramid, each region's from the level of its size, all levels in one operation.

A pooled value is a weighted sum of cells. The cells of all levels and images form one table, so that a
region's level is no more than an offset into it: nothing is computed for levels that a region is not on, no
count has to be known on the host, and the sums are added in the same order in every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kubedet_trainer.models import boxes as box_ops


@dataclass(frozen=True, kw_only=True)
class RegionMaps:
    """The map, one level of one image, that each of N regions is pooled from."""

    cells: Tensor
    """(M, C), the cells of all maps row by row, in the dtype of the boxes."""
    levels: Tensor
    """(N,) int64, from 0, the finest."""
    first_cells: Tensor
    """(N,) int32, where a region's map begins in `cells`."""
    heights: Tensor
    """(N,) int32, of a region's map in cells."""
    widths: Tensor
    """(N,) int32."""
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

    Level 0 takes regions of a side below ``2 * finest_roi`` pixels (`zoo.md` 5.1).
    """
    octaves = torch.log2(box_ops.areas(boxes).sqrt() / finest_roi + 1e-6).floor()
    return octaves.clamp(0, num_levels - 1).nan_to_num(0).long()


def find_maps(
    features: Sequence[Tensor], boxes: Tensor, *, strides: Sequence[int], finest_roi: float
) -> RegionMaps:
    """The maps of (B, R, 4) `boxes`, N = B * R, among `features` of `strides`, each (B, C, h, w)."""
    levels = map_levels(boxes, num_levels=len(strides), finest_roi=finest_roi)
    used = features[: len(strides)]
    cells = [feature.permute(0, 2, 3, 1).flatten(0, 2) for feature in used]
    begins = [sum(map(len, cells[:level])) for level in range(len(cells))]
    heights = _of_level(levels, [feature.shape[2] for feature in used])
    widths = _of_level(levels, [feature.shape[3] for feature in used])
    image = torch.arange(len(boxes), device=boxes.device, dtype=torch.int32)[:, None]
    first_cells = _of_level(levels, begins) + image * heights * widths
    return RegionMaps(
        cells=torch.cat(cells).to(boxes.dtype),
        levels=levels.flatten(),
        first_cells=first_cells.flatten(),
        heights=heights.flatten(),
        widths=widths.flatten(),
        strides=_of_level(levels, strides).flatten(),
    )


def spread(bins: int, *, samples: int, axis: int, like: Tensor) -> Tensor:
    """How far along a region each of its samples lies, evenly from 0 on: (1, 1, P, S) along x, axis 0.

    Along y, axis 1, it is (1, P, 1, S). Dtype and device are those of `like`.
    """
    fractions = torch.arange(bins * samples, dtype=like.dtype, device=like.device) / (bins * samples)
    return fractions.view(1, 1, bins, samples) if axis == 0 else fractions.view(1, bins, 1, samples)


def pool(maps: RegionMaps, *, x: Samples, y: Samples) -> Tensor:
    """The bins (N, C, P, P): sums over the S x S samples of each.

    Gradients reach the maps, and positions and shares where they need any.
    """
    columns, column_weights = _taps(x, maps.widths)
    rows, row_weights = _taps(y, maps.heights)
    rows = _per_region(maps.first_cells) + rows * _per_region(maps.widths)
    index = rows[..., :, None] + columns[..., None, :]
    weights = row_weights[..., :, None] * column_weights[..., None, :]
    bags = index.flatten(-2).flatten(0, 2)
    pooled: Tensor = F.embedding_bag(
        bags, maps.cells, per_sample_weights=weights.reshape(bags.shape), mode="sum"
    )
    return pooled.view(*index.shape[:3], maps.cells.shape[1]).permute(0, 3, 1, 2)


def _taps(samples: Samples, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """The two cells beside each sample, int32, and the weight of each: (N, P, P, 2 S)."""
    last = _per_region(sizes - 1).to(samples.positions.dtype)
    # Without this a detector that has diverged would address cells that do not exist.
    positions = torch.minimum(samples.positions.clamp(min=0), last).nan_to_num(0)
    before = positions.detach().floor()
    fraction = positions - before
    cells = torch.cat([before, torch.minimum(before + 1, last)], dim=-1).int()
    return cells, torch.cat([(1 - fraction) * samples.shares, fraction * samples.shares], dim=-1)


def _of_level(levels: Tensor, values: Sequence[int]) -> Tensor:
    """The value of each one's level, int32, with no constant to copy to the device."""
    result = torch.full_like(levels, values[0], dtype=torch.int32)
    for level, value in enumerate(values):
        result = result.masked_fill(levels == level, value)
    return result


def _per_region(values: Tensor) -> Tensor:
    """(N,) `values` as (N, 1, 1, 1)."""
    return values[:, None, None, None]
