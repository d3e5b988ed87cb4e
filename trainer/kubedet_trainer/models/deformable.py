"""Deformable pooling of regions: each bin learns where to look (Dai et al., 2017; `docs/zoo.md`, 2.6)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kubedet_trainer.models import pooling
from kubedet_trainer.models.options.two_stage import RoiOptions

_SAMPLES_PER_BIN = 4
_OFFSET_SCALE = 0.1
"""An offset of one moves a bin by this share of the region's side (`docs/zoo.md`, 2.6)."""
_SMALLEST_SIDE = 0.1
"""In cells."""


class DeformableRoiPool(nn.Module):
    """Pools regions to ``size`` x ``size`` bins twice: plainly, and where the plain features say to look.

    This is the operator of 2018, with coordinates rounded to pixels and samples at the left and top of their
    share of a bin; later ones of that name pool differently. Modulated, it weights each bin besides
    (Zhu et al., 2018). Every level has layers of its own to say where.
    """

    def __init__(self, options: RoiOptions, *, channels: int, strides: Sequence[int]) -> None:
        """For levels of `channels` and `strides`."""
        super().__init__()
        self.size = options.size
        self.strides = tuple(strides)
        self.finest_roi = options.finest_roi
        self.roi_layers = nn.ModuleList(
            _Guide(
                channels,
                bins=options.size**2,
                hidden=options.offset_channels,
                modulated=options.kind == "modulated",
            )
            for _ in strides
        )

    def forward(self, cells: pooling.Cells, boxes: Tensor) -> Tensor:
        """The features (B * R, C, size, size) of (B, R, 4) `boxes` in pixels, in their order."""
        boxes = boxes.detach()
        regions = pooling.place(cells, boxes, strides=self.strides, finest_roi=self.finest_roi)
        rounded = _round_half_away(boxes.flatten(0, 1))
        plain = self._pool(regions, rounded, offsets=None)
        predicted = self._predict(plain.flatten(1), regions.levels).to(boxes.dtype)
        predicted = predicted.view(len(predicted), -1, self.size, self.size)
        pooled = self._pool(regions, rounded, offsets=predicted[:, :2])
        return pooled * predicted[:, 2:] if predicted.shape[1] > 2 else pooled

    def _predict(self, plain: Tensor, levels: Tensor) -> Tensor:
        """(N, 2 P P or 3 P P) offsets, and modulations if any, from the `_Guide` of each region's level."""
        guides = list(self.roi_layers)
        if self.training:
            # Every level predicts for all regions: static shapes, and a gradient, even if 0, for each layer.
            predicted: Tensor = guides[0](plain)
            for level, guide in enumerate(guides[1:], start=1):
                predicted = torch.where((levels == level)[:, None], guide(plain), predicted)
            return predicted
        rows = [(levels == level).nonzero().squeeze(1) for level in range(len(guides))]
        answers = torch.cat([guide(plain[own]) for guide, own in zip(guides, rows, strict=True)])
        return torch.empty_like(answers).index_copy_(0, torch.cat(rows), answers)

    def _pool(self, regions: pooling.Regions, rounded: Tensor, *, offsets: Tensor | None) -> Tensor:
        """Bins of (N, 4) `rounded` boxes, moved by (N, 2, P, P) `offsets`, x before y."""
        begins = rounded[:, :2] / regions.strides[:, None] - 0.5
        ends = (rounded[:, 2:] + 1) / regions.strides[:, None] - 0.5
        sides = (ends - begins).clamp(min=_SMALLEST_SIDE)
        fractions = pooling.spread(self.size, samples=_SAMPLES_PER_BIN, like=begins)
        if offsets is not None:
            square = (self.size, *fractions.shape)
            of_bins = torch.stack([fractions.expand(square), fractions[:, None].expand(square)])
            fractions = of_bins[:, None] + offsets.transpose(0, 1)[..., None] * _OFFSET_SCALE
        ones = (1, 1) if offsets is None else (1, 1, 1)
        begins, sides, sizes = (
            values.view(*values.shape, *ones) for values in (begins.T, sides.T, regions.sizes)
        )
        bags = pooling.fill_bags(regions, _mean_on_map(begins + sides * fractions, sizes))
        (pooled,) = pooling.pool(regions.cells, bags)
        return pooled


def _mean_on_map(positions: Tensor, sizes: Tensor) -> pooling.Samples:
    """Samples that make a bin the mean of those of them that lie on the map."""
    on_map = ((positions >= -0.5) & (positions <= sizes - 0.5)).to(positions.dtype)
    return pooling.Samples(positions=positions, shares=on_map / on_map.sum(dim=-1, keepdim=True).clamp(min=1))


class _Guide(nn.Module):
    """From the plain features (N, C P P) of regions: 2 P P offsets, and P P weights if modulated."""

    def __init__(self, channels: int, *, bins: int, hidden: int, modulated: bool) -> None:
        super().__init__()
        self.offset_fc = nn.Sequential(
            nn.Linear(channels * bins, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            _silent(hidden, 2 * bins),
        )
        self.mask_fc: nn.Sequential | None = None
        if modulated:
            self.mask_fc = nn.Sequential(
                nn.Linear(channels * bins, hidden),
                nn.ReLU(inplace=True),
                _silent(hidden, bins),
                nn.Sigmoid(),
            )

    def forward(self, plain: Tensor) -> Tensor:
        offsets: Tensor = self.offset_fc(plain)
        return offsets if self.mask_fc is None else torch.cat([offsets, self.mask_fc(plain)], dim=1)


def _silent(inputs: int, outputs: int) -> nn.Linear:
    """A layer that says zero until it has learnt something."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _round_half_away(values: Tensor) -> Tensor:
    """To the nearest integer, halves away from zero, as in C."""
    return values.trunc() + torch.where(values.frac().abs() >= 0.5, values.sign(), 0)
