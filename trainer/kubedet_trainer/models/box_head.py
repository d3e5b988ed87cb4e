"""Second stage on boxes: classifies and refines regions (`docs/zoo.md`, 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kubedet_trainer.models import boxes as box_ops
from kubedet_trainer.models import losses, nms
from kubedet_trainer.models.assign import MaxIouAssigner
from kubedet_trainer.models.class_rows import ClassHead, ClassRows
from kubedet_trainer.models.compilable import compilable
from kubedet_trainer.models.convolutions import build_region_convs
from kubedet_trainer.models.options.two_stage import BoxHeadOptions
from kubedet_trainer.models.regions import RegionSampler, RegionSamples
from kubedet_trainer.models.sample import BalancedSampler
from kubedet_trainer.structures import Detections, Images, Proposals

_REGRESSION_BETA = 1.0
"""`docs/zoo.md`, 5.3."""


@dataclass(frozen=True, kw_only=True)
class BoxPrediction:
    """What the head says about R regions of each image."""

    logits: Tensor
    """(B, R, num_classes) float32; class 0 is the background."""
    deltas: Tensor
    """(B, R, num_classes or 1, 4) float32: the move of the region, of each class or of all."""


class BoxHead(ClassHead):
    """Shared layers on pooled features, then a score for every class and four deltas for each or for all.

    Source: Girshick, 2015; `docs/zoo.md`, 5.2.
    """

    def __init__(self, options: BoxHeadOptions, *, in_channels: int, num_classes: int, roi_size: int) -> None:
        """For regions pooled to (in_channels, roi_size, roi_size), and `num_classes` with the background."""
        super().__init__()
        self.options = options
        width = options.fc_channels
        self.shared_convs = build_region_convs(
            num_convs=options.num_convs,
            in_channels=in_channels,
            channels=in_channels,
            norm_groups=options.norm_groups if options.norm == "gn" else None,
        )
        pooled_values = in_channels * roi_size**2
        self.shared_fcs = nn.ModuleList(
            nn.Linear(pooled_values if index == 0 else width, width) for index in range(options.num_fcs)
        )
        self.fc_cls = nn.Linear(width, num_classes)
        self.fc_reg = nn.Linear(width, 4 if options.class_agnostic else 4 * num_classes)
        self._initialise()
        self.region_sampler = RegionSampler(
            assigner=MaxIouAssigner(
                positive_iou=options.positive_iou,
                negative_iou=options.positive_iou,
                min_positive_iou=options.positive_iou,
            ),
            sampler=BalancedSampler(
                num_samples=options.num_samples, positive_fraction=options.positive_fraction
            ),
        )

    def _initialise(self) -> None:
        for layer in self.shared_fcs:
            nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]
        nn.init.normal_(self.fc_cls.weight, std=0.01)
        nn.init.normal_(self.fc_reg.weight, std=0.001)
        for layer in (*self.shared_fcs, self.fc_cls, self.fc_reg):
            nn.init.zeros_(layer.bias)

    def class_rows(self) -> Mapping[str, ClassRows]:
        """Scores have a row for each class; deltas have four, unless all classes share them."""
        scores = {"fc_cls": ClassRows()}
        return scores if self.options.class_agnostic else scores | {"fc_reg": ClassRows(rows_per_class=4)}

    def shared_rows(self) -> Mapping[str, int]:
        """Deltas have four rows if all classes share them."""
        return {"fc_reg": 4}

    @compilable()
    def forward(self, pooled: Tensor, boxes: Tensor) -> BoxPrediction:
        """Judge the (B, R, 4) `boxes` by their `pooled` features (B * R, C, size, size)."""
        hidden = pooled
        for conv in self.shared_convs:
            hidden = conv(hidden)
        hidden = hidden.flatten(1)
        for layer in self.shared_fcs:
            hidden = F.relu(layer(hidden), inplace=True)
        regions = boxes.shape[:2]
        return BoxPrediction(
            logits=self.fc_cls(hidden).float().view(*regions, -1),
            deltas=self.fc_reg(hidden).float().view(*regions, -1, 4),
        )

    def losses(self, prediction: BoxPrediction, regions: RegionSamples) -> dict[str, Tensor]:
        """``loss_cls`` and ``loss_reg``, both divided by the number of samples of the batch.

        Source: `docs/zoo.md`, 5.3.
        """
        own_deltas = prediction.deltas
        if not self.options.class_agnostic:
            own_deltas = own_deltas.gather(2, regions.labels[..., None, None].expand(-1, -1, 1, 4))
        wanted = box_ops.encode(regions.boxes, regions.gt_boxes, stds=self.options.target_stds)
        classification = losses.cross_entropy(prediction.logits, regions.labels, used=regions.used)
        regression = losses.smooth_l1(
            own_deltas.squeeze(2), wanted, used=regions.positive, beta=_REGRESSION_BETA
        )
        count = regions.used.sum().clamp(min=1)
        return {"loss_cls": classification.sum() / count, "loss_reg": regression.sum() / count}

    @torch.no_grad()
    def move(self, boxes: Tensor, prediction: BoxPrediction, images: Images) -> Tensor:
        """The (B, R, 4) `boxes` moved by the deltas of each class or of all: (B, R, num_classes or 1, 4)."""
        return box_ops.decode(
            boxes[:, :, None],
            prediction.deltas,
            sizes=images.sizes[:, None, None],
            stds=self.options.target_stds,
        )

    def detect(
        self, prediction: BoxPrediction, proposals: Proposals, images: Images, scale_factors: Tensor
    ) -> list[Detections]:
        """The detections of each image, in pixels before it was scaled by (B, 4) `scale_factors`.

        Source: `docs/zoo.md`, 5.4.
        """
        scores = prediction.logits.softmax(dim=-1) * proposals.valid[..., None]
        original = self.move(proposals.boxes, prediction, images) / scale_factors[:, None, None]
        return nms.detections(original, scores, options=self.options)
