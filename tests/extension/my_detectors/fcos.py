"""FCOS: every location of a pyramid says how far away the sides of its object are (Tian et al., 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kubedet_trainer.models import boxes as box_ops
from kubedet_trainer.models import dense, losses, nms
from kubedet_trainer.models.anchors import AnchorGrid
from kubedet_trainer.models.class_rows import ClassHead, ClassRows
from kubedet_trainer.models.convolutions import build_region_convs
from kubedet_trainer.models.options.detectors import PyramidOptions
from kubedet_trainer.models.options.task import Task
from kubedet_trainer.models.pyramid import PyramidDetector
from kubedet_trainer.structures import Detections, Images, Targets
from my_detectors.options import FcosHeadOptions

_PRIOR = 0.01
"""How probable an untrained head finds every object."""


class Fcos(PyramidDetector):
    """A feature pyramid with a head that judges all locations in one stage."""

    def __init__(self, task: Task, *, pyramid: PyramidOptions, head: FcosHeadOptions) -> None:
        super().__init__(task, pyramid=pyramid)
        self.bbox_head = FcosHead(
            head, in_channels=self.neck.channels, num_classes=task.num_classes, strides=self.strides
        )

    def forward(self, images: Images, targets: Targets, generator: torch.Generator) -> dict[str, Tensor]:
        """The losses by name, scalars; nothing is random."""
        return self.bbox_head.losses(self.bbox_head(self.extract(images)), targets)

    @torch.no_grad()
    def detect(self, images: Images, scale_factors: Tensor) -> list[Detections]:
        """The detections of each image, in pixels before it was scaled by (B, 4) `scale_factors`."""
        return self.bbox_head.detect(self.bbox_head(self.extract(images)), images, scale_factors)


@dataclass(frozen=True, kw_only=True)
class FcosOutput:
    """What the head says about the N locations of all levels."""

    logits: Tensor
    """(B, N, C) of the classes without the background."""
    sides: Tensor
    """(B, N, 4), distances in pixels to the left, upper, right and lower side of the object."""
    centreness: Tensor
    """(B, N) logits: how near to the object's centre the location is."""
    points: Tensor
    """(N, 2), x and y of the locations in pixels."""
    strides: Tensor
    """(N,), of the level of each."""


@dataclass(frozen=True, kw_only=True)
class FcosTargets:
    """What each of N locations should say."""

    labels: Tensor
    """(B, N) int64, 0 for the background."""
    sides: Tensor
    """(B, N, 4), 1 where there is no object."""

    @property
    def positive(self) -> Tensor:
        """(B, N) bool, whether the location stands for an object."""
        return self.labels > 0

    @property
    def centreness(self) -> Tensor:
        """(B, N) from 0 at the rim of the object to 1 at its centre."""
        across, down = self.sides[..., 0::2], self.sides[..., 1::2]
        ratios = [pair.amin(dim=-1) / pair.amax(dim=-1) for pair in (across, down)]
        return (ratios[0] * ratios[1]).sqrt()


class FcosHead(ClassHead):
    """A tower of convolutions for the classes and one for the sides, both shared by all levels."""

    def __init__(
        self, options: FcosHeadOptions, *, in_channels: int, num_classes: int, strides: Sequence[int]
    ) -> None:
        """For levels of `in_channels` and `strides`, and `num_classes` with the background."""
        super().__init__()
        self.options = options
        self.num_labels = num_classes - 1
        self.strides = tuple(strides)
        centres = [torch.tensor([[(stride - 1) / 2] * 4]) for stride in strides]
        self.grid = AnchorGrid(strides=strides, bases=centres)
        self.cls_convs, self.reg_convs = (
            build_region_convs(
                num_convs=options.num_convs,
                in_channels=in_channels,
                channels=in_channels,
                norm_groups=options.norm_groups,
            )
            for _ in range(2)
        )
        self.fcos_cls = nn.Conv2d(in_channels, self.num_labels, 3, padding=1)
        self.fcos_reg = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.fcos_centre = nn.Conv2d(in_channels, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(len(self.strides)))
        for conv, bias in (
            (self.fcos_cls, math.log(_PRIOR / (1 - _PRIOR))),
            (self.fcos_reg, 0.0),
            (self.fcos_centre, 0.0),
        ):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.constant_(conv.bias, bias)  # type: ignore[arg-type]

    def class_rows(self) -> dict[str, ClassRows]:
        """The layer with a row for each class: a training can start from a detector of other classes."""
        return {"fcos_cls": ClassRows(has_background=False)}

    def forward(self, features: Sequence[Tensor]) -> FcosOutput:
        """Judge the locations of each (B, C, h, w) level."""
        towers = [_climb(self.reg_convs, feature) for feature in features]
        classes = [self.fcos_cls(_climb(self.cls_convs, feature)) for feature in features]
        sides = [
            (self.fcos_reg(tower).float() * scale).exp() * stride
            for tower, scale, stride in zip(towers, self.scales, self.strides, strict=True)
        ]
        grid = self.grid(features)
        counts = [feature[0, 0].numel() for feature in features]
        return FcosOutput(
            logits=dense.all_levels(classes, self.num_labels),
            sides=dense.all_levels(sides, 4),
            centreness=dense.all_levels([self.fcos_centre(tower) for tower in towers], 1).squeeze(-1),
            points=grid[:, :2],
            strides=torch.cat(
                [grid.new_full((count,), side) for count, side in zip(counts, self.strides, strict=True)]
            ),
        )

    def losses(self, output: FcosOutput, targets: Targets) -> dict[str, Tensor]:
        """``loss_cls``, ``loss_reg`` and ``loss_centre``: focal, of the overlap, and cross entropy."""
        wanted = self.assign(output, targets)
        positive, centreness = wanted.positive, wanted.centreness
        count = positive.sum(dim=1).clamp(min=1).sum()
        focal = losses.focal(
            output.logits, wanted.labels, used=torch.ones_like(positive), gamma=2.0, alpha=0.25
        )
        overlap = -overlaps(output.sides, wanted.sides).log() * centreness
        centre = F.binary_cross_entropy_with_logits(output.centreness, centreness, reduction="none")
        weight = torch.where(positive, centreness, 0).sum().clamp(min=1)
        return {
            "loss_cls": focal.sum() / count,
            "loss_reg": torch.where(positive, overlap, 0).sum() / weight,
            "loss_centre": torch.where(positive, centre, 0).sum() / count,
        }

    @torch.no_grad()
    def assign(self, output: FcosOutput, targets: Targets) -> FcosTargets:
        """A location stands for the smallest object that it lies in, if that is of its level's size."""
        reach = output.strides * self.options.reach
        nearest = torch.where(output.strides > self.strides[0], reach / 2, 0)
        farthest = torch.where(output.strides < self.strides[-1], reach, torch.inf)
        labels, sides = [], []
        for boxes, own_labels, valid in zip(targets.boxes, targets.labels, targets.valid, strict=True):
            points = output.points[:, None]
            distances = torch.cat([points - boxes[:, :2], boxes[:, 2:] - points], dim=-1)
            longest = distances.amax(dim=-1)
            fits = (longest > nearest[:, None]) & (longest <= farthest[:, None])
            candidate = fits & (distances.amin(dim=-1) > 0) & valid
            area, slot = torch.where(candidate, box_ops.areas(boxes), torch.inf).min(dim=1)
            found = area < torch.inf
            own = distances.gather(1, slot[:, None, None].expand(-1, -1, 4)).squeeze(1)
            labels.append(torch.where(found, own_labels[slot], 0))
            sides.append(torch.where(found[:, None], own, 1))
        return FcosTargets(labels=torch.stack(labels), sides=torch.stack(sides))

    def detect(self, output: FcosOutput, images: Images, scale_factors: Tensor) -> list[Detections]:
        """The detections of each image, in pixels before it was scaled by (B, 4) `scale_factors`."""
        scores = (output.logits.sigmoid() * output.centreness.sigmoid()[..., None]).sqrt()
        best = scores.amax(dim=-1).topk(min(self.options.nms_pre, scores.shape[1])).indices[..., None]
        scores = scores.gather(1, best.expand(-1, -1, self.num_labels))
        sides = output.sides.gather(1, best.expand(-1, -1, 4))
        points = output.points[best.squeeze(-1)]
        boxes = torch.cat([points - sides[..., :2], points + sides[..., 2:]], dim=-1)
        original = box_ops.clip(boxes, images.sizes[:, None]) / scale_factors[:, None]
        with_background = F.pad(scores, (1, 0))
        return nms.detections(original[:, :, None], with_background, options=self.options)


def overlaps(sides: Tensor, others: Tensor) -> Tensor:
    """Intersection over union (...) of boxes around the same points, given by (..., 4) distances."""
    common = torch.minimum(sides, others)
    intersection = _area(common)
    return intersection / (_area(sides) + _area(others) - intersection)


def _area(sides: Tensor) -> Tensor:
    return (sides[..., 0] + sides[..., 2]) * (sides[..., 1] + sides[..., 3])


def _climb(tower: nn.ModuleList, feature: Tensor) -> Tensor:
    for conv in tower:
        feature = conv(feature)
    return feature
