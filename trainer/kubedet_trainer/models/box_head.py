"""Second stage on boxes: assigns and samples proposals, classifies and refines them (`zoo.md` 5)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kubedet_trainer.models import boxes as box_ops
from kubedet_trainer.models import losses, nms
from kubedet_trainer.models.assign import MaxIouAssigner
from kubedet_trainer.models.sample import BalancedSampler
from kubedet_trainer.structures import Detections, Images, Proposals, Targets

_REGRESSION_BETA = 1.0


@dataclass(frozen=True, kw_only=True)
class RegionSamples:
    """S regions of each image with what they should become; a mask head trains on the positive ones too."""

    boxes: Tensor
    """(B, S, 4)."""
    labels: Tensor
    """(B, S) int64, 0 for the background and in empty slots."""
    gt_slots: Tensor
    """(B, S) int64, the ground truth of a positive; 0 elsewhere."""
    gt_boxes: Tensor
    """(B, S, 4), the box of that ground truth."""
    positive: Tensor
    """(B, S) bool."""
    used: Tensor
    """(B, S) bool, False in empty slots."""


@dataclass(frozen=True, kw_only=True)
class RegionSampler:
    """Ground truths are added to the proposals as positives; a share of all becomes the samples."""

    assigner: MaxIouAssigner
    sampler: BalancedSampler

    @torch.no_grad()
    def __call__(self, proposals: Proposals, targets: Targets, generator: torch.Generator) -> RegionSamples:
        """Candidates are ordered ground truths first, then `proposals` as they come."""
        assigned = torch.stack(
            [
                self.assigner(boxes, valid, gt_boxes, gt_valid).targets
                for boxes, valid, gt_boxes, gt_valid in zip(
                    proposals.boxes, proposals.valid, targets.boxes, targets.valid, strict=True
                )
            ]
        )
        own_slots = torch.arange(1, targets.valid.shape[1] + 1, device=assigned.device)
        assigned = torch.cat([torch.where(targets.valid, own_slots, -1), assigned], dim=1)
        candidates = torch.cat([targets.boxes, proposals.boxes], dim=1)
        samples = self.sampler(assigned, generator)
        gt_slots = (assigned.gather(1, samples.indices) - 1).clamp(min=0)
        as_boxes = (-1, -1, 4)
        return RegionSamples(
            boxes=candidates.gather(1, samples.indices[..., None].expand(as_boxes)),
            labels=torch.where(samples.positive, targets.labels.gather(1, gt_slots), 0),
            gt_slots=gt_slots,
            gt_boxes=targets.boxes.gather(1, gt_slots[..., None].expand(as_boxes)),
            positive=samples.positive,
            used=samples.positive | samples.negative,
        )


class BoxHead(nn.Module):
    """Two shared layers on pooled features, then a score and four deltas for every class."""

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        roi_size: int,
        num_convs: int,
        num_fcs: int,
        fc_channels: int,
        norm: str,
        norm_groups: int,
        class_agnostic: bool,
        positive_iou: float,
        num_samples: int,
        positive_fraction: float,
        target_stds: tuple[float, float, float, float],
        score_threshold: float,
        nms_iou: float,
        max_detections: int,
    ) -> None:
        """For `num_classes` with the background; `config.BoxHeadConfig` explains the other options."""
        super().__init__()
        self.num_classes = num_classes
        self.shared_fcs = nn.ModuleList(
            [nn.Linear(in_channels * roi_size**2, fc_channels), nn.Linear(fc_channels, fc_channels)]
        )
        self.fc_cls = nn.Linear(fc_channels, num_classes)
        self.fc_reg = nn.Linear(fc_channels, num_classes * 4)
        for layer in self.shared_fcs:
            nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]
        nn.init.normal_(self.fc_cls.weight, std=0.01)
        nn.init.normal_(self.fc_reg.weight, std=0.001)
        for layer in (*self.shared_fcs, self.fc_cls, self.fc_reg):
            nn.init.zeros_(layer.bias)
        self.region_sampler = RegionSampler(
            assigner=MaxIouAssigner(
                positive_iou=positive_iou, negative_iou=positive_iou, min_positive_iou=positive_iou
            ),
            sampler=BalancedSampler(num_samples=num_samples, positive_fraction=positive_fraction),
        )
        self.target_stds = target_stds
        self.score_threshold = score_threshold
        self.nms_iou = nms_iou
        self.max_detections = max_detections

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, num_classes) and deltas (N, 4 * num_classes) of (N, C, size, size) pooled `regions`."""
        hidden = regions.flatten(1)
        for layer in self.shared_fcs:
            hidden = F.relu(layer(hidden), inplace=True)
        return self.fc_cls(hidden), self.fc_reg(hidden)

    def losses(self, pooled: Tensor, regions: RegionSamples) -> dict[str, Tensor]:
        """``loss_cls`` and ``loss_reg``, both divided by the number of samples of the batch."""
        logits, deltas = self._predict(pooled, regions.boxes)
        own_class = regions.labels[..., None, None].expand(-1, -1, 1, 4)
        own_deltas = deltas.gather(2, own_class).squeeze(2)
        wanted = box_ops.encode(regions.boxes, regions.gt_boxes, stds=self.target_stds)
        classification = losses.cross_entropy(logits, regions.labels, used=regions.used)
        regression = losses.smooth_l1(own_deltas, wanted, used=regions.positive, beta=_REGRESSION_BETA)
        count = regions.used.sum().clamp(min=1)
        return {"loss_cls": classification.sum() / count, "loss_reg": regression.sum() / count}

    def detect(
        self, pooled: Tensor, proposals: Proposals, images: Images, scale_factors: Tensor
    ) -> list[Detections]:
        """The detections of each image, in pixels before it was scaled by (B, 4) `scale_factors`."""
        logits, deltas = self._predict(pooled, proposals.boxes)
        scores = logits.softmax(dim=-1) * proposals.valid[..., None]
        boxes = box_ops.decode(
            proposals.boxes[:, :, None], deltas, sizes=images.sizes[:, None, None], stds=self.target_stds
        )
        original = boxes / scale_factors[:, None, None]
        return [
            nms.suppress_per_class(
                image_boxes,
                image_scores,
                score_threshold=self.score_threshold,
                iou_threshold=self.nms_iou,
                max_detections=self.max_detections,
            )
            for image_boxes, image_scores in zip(original, scores, strict=True)
        ]

    def _predict(self, pooled: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, R, C) and deltas (B, R, C, 4) of (B, R, 4) `boxes`, in float32."""
        logits, deltas = self(pooled)
        shape = (*boxes.shape[:2], self.num_classes)
        return logits.float().view(shape), deltas.float().view(*shape, 4)
