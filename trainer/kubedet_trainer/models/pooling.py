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
class Cells:
    """The cells of all images and levels as one table, ordered by image, level, row and column.

    One table serves all that look into it: it is made once a step, and gradients are added up in it.
    """

    table: Tensor
    """(B, M, C)."""
    begins: tuple[int, ...]
    """Where each level begins among the M cells of an image."""
    heights: tuple[int, ...]
    """Of each level."""
    widths: tuple[int, ...]
    """Of each level."""

    def image_begins(self) -> Tensor:
        """(B, 1) int32, where each image begins among all B * M cells."""
        num_images, num_cells = self.table.shape[:2]
        begins = tuple(num_cells * image for image in range(num_images))
        return host.constant(begins, self.table.device, dtype=torch.int32)[:, None]


@dataclass(frozen=True, kw_only=True)
class Regions:
    """N regions and where each is pooled from. A map is one level of one image."""

    cells: Cells
    levels: Tensor
    """(N,) int64, from 0, the finest."""
    strides: Tensor
    """(N,) float32, pixels of a cell's side."""
    sizes: Tensor
    """(2, N) float32, width and height of the region's map in cells."""
    first_cells: Tensor
    """(N,) int32, where the map begins in the table."""
    widths: Tensor
    """(N,) int32, cells of a row of the map."""


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


@dataclass(frozen=True, kw_only=True)
class Bags:
    """The T cells that each bin of N regions is a sum of: P x P bins a region, by region, row and column."""

    index: Tensor
    """(N * P * P, T) int32, into the cells of all images."""
    weights: Tensor
    """(N * P * P, T)."""
    side: int
    """P, bins of a row or a column of a region."""


def map_levels(boxes: Tensor, *, num_levels: int, finest_roi: float) -> Tensor:
    """The level of each of (..., 4) `boxes`, int64 from 0, the finest: one coarser for each doubled side.

    Level 0 takes regions of a side below ``2 * finest_roi`` pixels (Lin et al., 2016; `docs/zoo.md`, 5.1).
    """
    octaves = torch.log2(box_ops.areas(boxes).sqrt() / finest_roi + 1e-6).floor()
    return octaves.clamp(0, num_levels - 1).nan_to_num(0).long()


def of_levels(levels: Tensor, *properties: Sequence[int], dtype: torch.dtype = torch.int32) -> Tensor:
    """Each of P `properties`, which have a value a level, of each of (...) `levels`: (P, ...) of `dtype`."""
    values = host.constant(tuple(itertools.chain(*properties)), levels.device, dtype=dtype)
    return values.view(len(properties), -1)[:, levels]


def tabulate(features: Sequence[Tensor], dtype: torch.dtype | None = None) -> Cells:
    """The cells of `features`, one (B, C, h, w) a level, of `dtype` or their own."""
    counts = [feature.shape[2] * feature.shape[3] for feature in features]
    return Cells(
        table=torch.cat([feature.flatten(2).mT for feature in features], dim=1).to(dtype),
        begins=(0, *itertools.accumulate(counts[:-1])),
        heights=tuple(feature.shape[2] for feature in features),
        widths=tuple(feature.shape[3] for feature in features),
    )


def place(cells: Cells, boxes: Tensor, *, strides: Sequence[int], finest_roi: float) -> Regions:
    """The regions of (B, R, 4) `boxes`, N = B * R, on the first levels of `cells`, which have `strides`."""
    levels = map_levels(boxes, num_levels=len(strides), finest_roi=finest_roi)
    used = slice(len(strides))
    begins, widths = of_levels(levels, cells.begins[used], cells.widths[used])
    of_map = of_levels(
        levels.flatten(), strides, cells.widths[used], cells.heights[used], dtype=torch.float32
    )
    return Regions(
        cells=cells,
        levels=levels.flatten(),
        strides=of_map[0],
        sizes=of_map[1:],
        first_cells=(begins + cells.image_begins()).flatten(),
        widths=widths.flatten(),
    )


def spread(bins: int, *, samples: int, like: Tensor) -> Tensor:
    """How far along a region each of its samples lies, evenly from 0 on: (P, S), of the dtype of `like`."""
    count = bins * samples
    fractions = tuple(sample / count for sample in range(count))
    return host.constant(fractions, like.device, dtype=like.dtype).view(bins, samples)


def fill_bags(regions: Regions, samples: Samples) -> Bags:
    """The cells around the S x S samples of each bin."""
    (columns, rows), (column_weights, row_weights) = (
        _on_grid(taps) for taps in _taps(samples, regions.sizes)
    )
    rows = _per_region(regions.first_cells) + rows * _per_region(regions.widths)
    index = rows[..., :, None] + columns[..., None, :]
    weights = row_weights[..., :, None] * column_weights[..., None, :]
    bags = index.flatten(-2).flatten(0, 2)
    return Bags(index=bags, weights=weights.reshape(bags.shape), side=index.shape[1])


def pool(cells: Cells, *parts: Bags) -> list[Tensor]:
    """The bins (N, C, P, P) of each of `parts`, on a GPU with the channels of a bin next to each other.

    All look into the table at once, since the gradient of each look is as large as the table. Gradients
    reach the table, and the weights where they need any.
    """
    index, weights = ([part.index for part in parts], [part.weights for part in parts])
    bins: Tensor = F.embedding_bag(
        _join(index), cells.table.flatten(0, 1), per_sample_weights=_join(weights), mode="sum"
    )
    counts = [len(part.index) for part in parts]
    by_part = torch.split(bins, counts) if len(parts) > 1 else (bins,)
    pooled = [
        own.view(len(own) // part.side**2, part.side, part.side, own.shape[1]).permute(0, 3, 1, 2)
        for own, part in zip(by_part, parts, strict=True)
    ]
    # Convolutions on a CPU take longer in that order than the copy to the usual one.
    return [maps.contiguous() for maps in pooled] if host.computes(bins.device) else pooled


def patches(cells: Cells, indices: Tensor) -> Tensor:
    """The 3x3 cells around each of (B, S) `indices` into the cells of an image: (B, S, 9 C).

    Ordered by row, column and channel; cells beyond a map are zero, as a convolution pads it.
    """
    device = indices.device
    levels = torch.bucketize(indices, host.constant(cells.begins[1:], device, dtype=torch.int64), right=True)
    of_map = of_levels(levels, cells.begins, cells.heights, cells.widths, dtype=torch.int64)
    sizes, widths = of_map[1:], of_map[2]
    position = indices - of_map[0]
    steps = host.constant((-1, 0, 1), device, dtype=torch.int64)
    places = torch.stack([position // widths, position % widths])[..., None] + steps
    beyond = (places < 0) | (places >= sizes[..., None])
    beyond_map = beyond[0][..., :, None] | beyond[1][..., None, :]
    rows = (indices + cells.image_begins())[..., None] + widths[..., None] * steps
    index = rows[..., :, None] + steps
    found = F.embedding(index.masked_fill(beyond_map, 0), cells.table.flatten(0, 1))
    return found.masked_fill(beyond_map[..., None], 0).flatten(2)


def _taps(samples: Samples, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """The two cells around each sample, int32, and the weight of each: (..., 2 S) for (..., S) samples."""
    positions = samples.positions
    last = (sizes - 1).view(*sizes.shape, *[1] * (positions.ndim - 2))
    # Without this a detector that has diverged would address cells that do not exist.
    positions = torch.minimum(positions.clamp(min=0), last).nan_to_num(0)
    before = positions.detach().floor()
    fractions = (positions - before)[..., None, :]
    zero_one, one_zero, signs = (
        host.constant(values, positions.device, dtype=positions.dtype)[:, None]
        for values in ((0, 1), (1, 0), (-1, 1))
    )
    cells = torch.minimum(before[..., None, :] + zero_one, last[..., None]).int()
    weights = torch.addcmul(one_zero, signs, fractions) * samples.shares[..., None, :]
    return cells.flatten(-2), weights.flatten(-2)


def _join(parts: Sequence[Tensor]) -> Tensor:
    """One after the other, without a copy of a single one."""
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]


def _on_grid(taps: Tensor) -> tuple[Tensor, Tensor]:
    """What belongs to x and what to y, each (N, P, P, 2 S), or with 1 where it does not change."""
    along_x, along_y = taps
    return (along_x, along_y) if taps.ndim == 5 else (along_x[:, None], along_y[:, :, None])


def _per_region(values: Tensor) -> Tensor:
    """(N,) `values` as (N, 1, 1, 1)."""
    return values[:, None, None, None]
