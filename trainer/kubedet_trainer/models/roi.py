"""Features of regions, pooled from the pyramid level that fits their size (`docs/zoo.md`, 5.1)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kubedet_trainer.models import host, pooling
from kubedet_trainer.models.deformable import DeformableRoiPool
from kubedet_trainer.models.options.two_stage import RoiOptions

_SAMPLES_PER_BIN = 2


def build_roi_extractor(options: RoiOptions, *, channels: int, strides: Sequence[int]) -> nn.Module:
    """What pools regions from levels of `channels` and `strides`.

    Calling it with the `pooling.Cells` of the levels and (B, R, 4) boxes gives (B * R, channels, size, size).
    """
    if options.kind == "align":
        return RoiAlign(size=options.size, strides=strides, finest_roi=options.finest_roi)
    return DeformableRoiPool(options, channels=channels, strides=strides)


def extract(cells: pooling.Cells, wanted: Sequence[tuple[nn.Module, Tensor]]) -> list[Tensor]:
    """What each extractor pools at its boxes, as if called; plain ones look at the cells together."""
    bags = [extractor.bags(cells, boxes) for extractor, boxes in wanted if isinstance(extractor, RoiAlign)]
    if len(bags) == len(wanted):
        return pooling.pool(cells, *bags)
    return [extractor(cells, boxes) for extractor, boxes in wanted]


class RoiAlign(nn.Module):
    """Pools regions to `size` x `size` bins, as the 2018 operator did: two samples a side of a bin.

    Source: He et al., 2017; `docs/zoo.md`, 5.1.
    """

    def __init__(self, *, size: int, strides: Sequence[int], finest_roi: float) -> None:
        """For levels of `strides`; `finest_roi` as in `pooling.map_levels`."""
        super().__init__()
        self.size = size
        self.strides = tuple(strides)
        self.finest_roi = finest_roi

    def forward(self, cells: pooling.Cells, boxes: Tensor) -> Tensor:
        """The features (B * R, C, size, size) of (B, R, 4) `boxes` in pixels, in their order."""
        (pooled,) = pooling.pool(cells, self.bags(cells, boxes))
        return pooled

    def bags(self, cells: pooling.Cells, boxes: Tensor) -> pooling.Bags:
        """The cells that they are sums of."""
        boxes = boxes.detach()
        regions = pooling.place(cells, boxes, strides=self.strides, finest_roi=self.finest_roi)
        to_exclusive = host.constant((0, 0, 1, 1), boxes.device, dtype=boxes.dtype)
        corners = (boxes.flatten(0, 1) + to_exclusive) / regions.strides[:, None]
        begins, ends = corners.T.view(2, 2, -1)
        return pooling.fill_bags(regions, self._samples(begins, ends, regions.sizes))

    def _samples(self, begins: Tensor, ends: Tensor, sizes: Tensor) -> pooling.Samples:
        """Evenly spread; those more than a cell beyond the map count as zero. All are (2, N)."""
        begins, ends, sizes = (values[..., None, None] for values in (begins, ends, sizes))
        fractions = pooling.spread(self.size, samples=_SAMPLES_PER_BIN, like=begins)
        half_step = 0.5 / (self.size * _SAMPLES_PER_BIN)
        # A box that ends before it begins has no side, rather than a negative one (`docs/zoo.md`, C2).
        positions = begins + (ends - begins).clamp(min=0) * (fractions + half_step)
        counted = (positions >= -1) & (positions <= sizes)
        return pooling.Samples(positions=positions, shares=counted / _SAMPLES_PER_BIN)
