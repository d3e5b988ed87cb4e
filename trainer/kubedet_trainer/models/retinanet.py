"""RetinaNet: every anchor of a pyramid is classified, and the easy ones hardly count (`docs/zoo.md`, 7)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kubedet_trainer.models import boxes as box_ops
from kubedet_trainer.models import dense, losses, nms
from kubedet_trainer.models.anchors import pyramid_anchors
from kubedet_trainer.models.assign import MaxIouAssigner
from kubedet_trainer.models.class_rows import ClassHead, ClassRows
from kubedet_trainer.models.compilable import compilable
from kubedet_trainer.models.dense import DenseOutput, per_anchor
from kubedet_trainer.models.options.dense import RetinaHeadOptions
from kubedet_trainer.models.options.detectors import PyramidOptions
from kubedet_trainer.models.options.task import Task
from kubedet_trainer.models.pyramid import PyramidDetector
from kubedet_trainer.models.sheet import Sheet, SheetAnchorGrid
from kubedet_trainer.structures import Detections, Images, Targets

_PADDING = 32
"""Each image has the anchors of its cells when padded to multiples of this, the last stage's stride
(`docs/zoo.md`, 1.1)."""

_PRIOR = 0.01
"""How probable an untrained head finds every object, so that the negatives do not drown the start
(Lin et al., 2017)."""


class RetinaNet(PyramidDetector):
    """A feature pyramid with a head that judges all anchors in one stage (Lin et al., 2017)."""

    def __init__(self, task: Task, *, pyramid: PyramidOptions, head: RetinaHeadOptions) -> None:
        super().__init__(task, pyramid=pyramid)
        self.bbox_head = RetinaHead(
            head, in_channels=self.neck.channels, num_classes=task.num_classes, strides=self.strides
        )

    def forward(self, images: Images, targets: Targets, generator: torch.Generator) -> dict[str, Tensor]:
        """The losses by name, scalars; nothing is random."""
        output = self.bbox_head(self.extract(images))
        each = self.bbox_head.anchor_losses(output, images, targets)
        return {name: of_anchors.sum() for name, of_anchors in each.items()}

    @torch.no_grad()
    def detect(self, images: Images, scale_factors: Tensor) -> list[Detections]:
        """The detections of each image, in pixels before it was scaled by (B, 4) `scale_factors`."""
        return self.bbox_head.detect(self.bbox_head(self.extract(images)), images, scale_factors)


@dataclass(frozen=True, kw_only=True)
class RetinaOutput(DenseOutput):
    """As `DenseOutput`, but of each map of `sheet` in place of each level, anchors in gaps included."""

    sheet: Sheet
    """Where the levels lie."""

    def by_level(self, values: Tensor) -> list[Tensor]:
        """What belongs to the N anchors, (N, D) `values`, as (n, D) of each level."""
        sizes = [deltas.shape[-2:] for deltas in self.deltas]
        of_maps = torch.split(values, [deltas[0].numel() // 4 for deltas in self.deltas])
        maps = [
            own.view(*size, -1, values.shape[1]).permute(2, 3, 0, 1)
            for own, size in zip(of_maps, sizes, strict=True)
        ]
        return [level.permute(2, 3, 0, 1).flatten(0, 2) for level in self.sheet.levels(maps)]


class RetinaHead(ClassHead):
    """A tower of convolutions for the classes and one for the deltas, both shared by all levels."""

    def __init__(
        self, options: RetinaHeadOptions, *, in_channels: int, num_classes: int, strides: Sequence[int]
    ) -> None:
        """For levels of `in_channels` and `strides`, and `num_classes` with the background.

        There is no channel for the background: an anchor without any probable class belongs to it.
        """
        super().__init__()
        self.options = options
        steps = options.scales_per_octave
        scales = [options.anchor_scale * 2 ** (step / steps) for step in range(steps)]
        bases = pyramid_anchors(strides, scales=scales, ratios=options.anchor_ratios)
        self.anchor_grid = SheetAnchorGrid(strides=strides, bases=bases)
        self.num_anchors = len(bases[0])
        self.num_labels = num_classes - 1
        self.cls_convs = _tower(in_channels, options.num_convs)
        self.reg_convs = _tower(in_channels, options.num_convs)
        self.retina_cls = nn.Conv2d(in_channels, self.num_anchors * self.num_labels, 3, padding=1)
        self.retina_reg = nn.Conv2d(in_channels, self.num_anchors * 4, 3, padding=1)
        for conv in (*self.cls_convs, *self.reg_convs, self.retina_cls, self.retina_reg):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)
        nn.init.constant_(self.retina_cls.bias, math.log(_PRIOR / (1 - _PRIOR)))  # type: ignore[arg-type]
        self.assigner = MaxIouAssigner(
            positive_iou=options.positive_iou, negative_iou=options.negative_iou, min_positive_iou=0
        )

    def class_rows(self) -> Mapping[str, ClassRows]:
        """Each anchor has a filter for each class."""
        return {"retina_cls": ClassRows(num_groups=self.num_anchors, has_background=False)}

    def forward(self, features: Sequence[Tensor]) -> RetinaOutput:
        """Judge the anchors of each (B, C, h, w) level."""
        sheet = Sheet([feature.shape[-2:] for feature in features])
        maps = zip(sheet.maps(features), (None, sheet.closed_gaps(features[0])), strict=False)
        logits, deltas = zip(*(self._judge(*own) for own in maps), strict=True)
        return RetinaOutput(
            logits=list(logits), deltas=list(deltas), anchors=self.anchor_grid(features), sheet=sheet
        )

    @compilable("sizes")
    def _judge(self, feature: Tensor, closed_gaps: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits and deltas, as in `RetinaOutput`, of one map."""
        logits: Tensor = self.retina_cls(_climb(self.cls_convs, feature, closed_gaps))
        deltas: Tensor = self.retina_reg(_climb(self.reg_convs, feature, closed_gaps))
        return logits, deltas

    def anchor_losses(self, output: RetinaOutput, images: Images, targets: Targets) -> dict[str, Tensor]:
        """``loss_cls`` and ``loss_reg`` of each anchor (B, N), divided by the positives of the batch.

        Source: `docs/zoo.md`, 7.
        """
        padded = (images.sizes + _PADDING - 1) // _PADDING * _PADDING
        taking_part = self.anchor_grid.within(padded, output.sheet.levels(output.logits))
        wanted = dense.assign(self.assigner, output.anchors, targets, taking_part=taking_part)
        counts = [deltas[0].numel() // 4 for deltas in output.deltas]
        parts = (torch.split(values, counts, dim=1) for values in (wanted.labels, wanted.used))
        of_maps = [self._focal(*own) for own in zip(output.logits, *parts, strict=True)]
        smooth = losses.smooth_l1(
            dense.all_levels(output.deltas, 4),
            wanted.deltas,
            used=wanted.positive,
            beta=self.options.regression_beta,
        )
        divisor = wanted.divisor()
        return {"loss_cls": torch.cat(of_maps, dim=1) / divisor, "loss_reg": smooth / divisor}

    @compilable("sizes")
    def _focal(self, logits: Tensor, labels: Tensor, used: Tensor) -> Tensor:
        """The focal loss of the anchors of one map, all (B, n) but its (B, A * C, h, w) `logits`."""
        own = per_anchor(logits.float(), self.num_labels)
        return losses.focal(
            own,
            labels.view(own.shape[:-1]),
            used=used.view(own.shape[:-1]),
            gamma=self.options.focal_gamma,
            alpha=self.options.focal_alpha,
        ).flatten(1)

    def detect(self, output: RetinaOutput, images: Images, scale_factors: Tensor) -> list[Detections]:
        """The detections of each image, in pixels before it was scaled by (B, 4) `scale_factors`."""
        maps = (output.sheet.levels(maps) for maps in (output.logits, output.deltas))
        levels = [self._best(*level) for level in zip(*maps, output.by_level(output.anchors), strict=True)]
        logits, deltas, boxes = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
        boxes = box_ops.decode(boxes, deltas, sizes=images.sizes[:, None])
        scores = F.pad(logits.sigmoid(), (1, 0))  # column 0 is the background
        original = boxes / scale_factors[:, None]
        return nms.detections(original[:, :, None], scores, options=self.options)

    def _best(self, logits: Tensor, deltas: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, K, C), deltas (B, K, 4) and anchors (B, K, 4) of a level's most probable anchors."""
        best_class = per_anchor(logits, self.num_labels).amax(dim=-1).flatten(1)
        best = best_class.topk(min(self.options.nms_pre, best_class.shape[1])).indices
        return _pick(logits, best, self.num_labels), _pick(deltas, best, 4), anchors[best]


def _pick(maps: Tensor, indices: Tensor, width: int) -> Tensor:
    """Of (B, A * width, h, w) `maps` what belongs to the anchors of (B, K) `indices`: (B, K, width) float32.

    Taken from where it lies: all maps of a level in another order would be a copy of 50 MB.
    """
    by_anchor = maps.view(len(maps), -1, width, *maps.shape[2:])
    images = torch.arange(len(maps), device=maps.device)[:, None]
    cells, anchors = indices // by_anchor.shape[1], indices % by_anchor.shape[1]
    picked: Tensor = by_anchor[images, anchors, :, cells // maps.shape[3], cells % maps.shape[3]]
    return picked.float()


def _tower(channels: int, num_convs: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(num_convs))


def _climb(tower: nn.ModuleList, feature: Tensor, closed_gaps: Tensor | None) -> Tensor:
    for conv in tower:
        feature = conv(feature)
        if closed_gaps is not None:
            feature += closed_gaps
        feature = F.relu(feature, inplace=True)
    return feature
