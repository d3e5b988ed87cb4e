"""The outlines of objects: one bitmap a class on the features of each region (`docs/zoo.md`, 5.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kubedet_trainer.models import losses
from kubedet_trainer.models.class_rows import ClassHead, ClassRows
from kubedet_trainer.models.compilable import compilable
from kubedet_trainer.models.convolutions import build_region_convs, init_for_relu
from kubedet_trainer.models.mask_targets import mask_targets
from kubedet_trainer.models.options.two_stage import MaskHeadOptions
from kubedet_trainer.models.pooling import Cells
from kubedet_trainer.models.regions import RegionSamples
from kubedet_trainer.structures import Detections, Masks

UPSAMPLING = 2
"""A map has this many times the rows and columns of the pooled features."""


class MaskHead(ClassHead):
    """Convolutions, an upsampling by two, and the logits of a bitmap for each class."""

    def __init__(self, options: MaskHeadOptions, *, in_channels: int, num_classes: int) -> None:
        """For features of `in_channels`, and `num_classes` with the background."""
        super().__init__()
        channels = options.channels
        self.convs = build_region_convs(
            num_convs=options.num_convs,
            in_channels=in_channels,
            channels=channels,
            norm_groups=options.norm_groups if options.norm == "gn" else None,
        )
        self.upsample = nn.ConvTranspose2d(channels, channels, UPSAMPLING, stride=UPSAMPLING)
        self.conv_logits = nn.Conv2d(channels, num_classes, 1)
        init_for_relu(self.upsample)
        init_for_relu(self.conv_logits)

    def class_rows(self) -> Mapping[str, ClassRows]:
        """The last layer has a filter for each class."""
        return {"conv_logits": ClassRows()}

    @compilable("count")
    def forward(self, pooled: Tensor, labels: Tensor) -> Tensor:
        """Logits (N, 2h, 2w) float32 of class `labels` (N,) for `pooled` features (N, C, h, w).

        Of the last layer only the filter of each region's class is applied: the zoo computed all 81 maps.
        """
        hidden = self.upsampled(pooled)
        assert self.conv_logits.bias is not None
        filters = self.conv_logits.weight.flatten(1).index_select(0, labels)
        bias = self.conv_logits.bias.index_select(0, labels)[:, None, None]
        return torch.einsum("nc,nchw->nhw", filters, hidden).float() + bias

    def upsampled(self, pooled: Tensor) -> Tensor:
        """What the last layer sees: (N, channels, 2h, 2w)."""
        hidden = pooled
        for conv in self.convs:
            hidden = conv(hidden)
        return F.relu(self.upsample(hidden), inplace=True)

    def losses(self, pooled: Tensor, regions: RegionSamples, masks: Masks) -> dict[str, Tensor]:
        """``loss_mask``, the mean over all pixels of the maps of the positive ones of `regions`.

        `pooled` are the features (B * R, C, h, w) of `regions`.
        """
        size = UPSAMPLING * pooled.shape[-1]
        wanted = mask_targets(masks, regions.gt_slots, regions.boxes, size=size)
        return self.losses_of_maps(pooled, regions, wanted)

    def losses_of_maps(self, pooled: Tensor, regions: RegionSamples, wanted: Tensor) -> dict[str, Tensor]:
        """The same for the maps (B, R, 2h, 2w) bool that are `wanted` of the regions."""
        logits = self(pooled, regions.labels.flatten()).view_as(wanted)
        each = losses.binary_cross_entropy(logits, wanted, used=regions.positive[..., None, None])
        size = wanted.shape[-1]
        return {"loss_mask": each.sum() / (regions.positive.sum().clamp(min=1) * size**2)}


def add_masks(
    detections: Sequence[Detections],
    cells: Cells,
    scale_factors: Tensor,
    stages: Sequence[tuple[nn.Module, MaskHead]],
) -> list[Detections]:
    """`detections` with masks: the mean probability of what the RoI extractor and head of each stage see.

    Pooled from `cells` of the pyramid at the detections times (B, 4) `scale_factors`.
    """
    outlined = []
    for index, found in enumerate(detections):
        own_cells = replace(cells, table=cells.table[index : index + 1])
        boxes = (found.boxes * scale_factors[index])[None]
        logits = [head(extract(own_cells, boxes), found.labels) for extract, head in stages]
        outlined.append(replace(found, masks=torch.stack(logits).sigmoid().mean(dim=0)))
    return outlined
