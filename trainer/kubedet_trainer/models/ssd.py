"""The single shot detector: anchors on the maps of a plain network, hard negatives (`docs/zoo.md`, 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from kubedet_trainer.models import boxes as box_ops
from kubedet_trainer.models import dense, losses, nms
from kubedet_trainer.models.anchors import AnchorGrid, single_shot_anchors
from kubedet_trainer.models.assign import MaxIouAssigner
from kubedet_trainer.models.backbones.vgg import Vgg
from kubedet_trainer.models.class_rows import ClassHead, ClassRows
from kubedet_trainer.models.compilable import compilable
from kubedet_trainer.models.dense import DenseOutput, DenseTargets
from kubedet_trainer.models.detector import Detector
from kubedet_trainer.models.options.backbones import VggOptions
from kubedet_trainer.models.options.dense import SsdHeadOptions
from kubedet_trainer.models.options.task import Task
from kubedet_trainer.structures import Detections, Images, Targets

_REGRESSION_BETA = 1.0


class Ssd(Detector):
    """A head on each source map of VGG-16 (Liu et al., 2015), for square images of one size."""

    def __init__(self, task: Task, *, backbone: VggOptions, head: SsdHeadOptions) -> None:
        super().__init__(task)
        self.backbone = Vgg(backbone)
        self.bbox_head = SsdHead(head, in_channels=self.backbone.out_channels, num_classes=task.num_classes)

    def forward(self, images: Images, targets: Targets, generator: torch.Generator) -> dict[str, Tensor]:
        """The losses by name, scalars; nothing is random."""
        output = self.bbox_head(self.backbone(self.normalised(images)))
        by_image = self.bbox_head.image_losses(output, targets)
        return {name: images.sum() for name, images in by_image.items()}

    @torch.no_grad()
    def detect(self, images: Images, scale_factors: Tensor) -> list[Detections]:
        """The detections of each image, in pixels before it was scaled by (B, 4) `scale_factors`."""
        output = self.bbox_head(self.backbone(self.normalised(images)))
        return self.bbox_head.detect(output, images, scale_factors)


class SsdHead(ClassHead):
    """A 3x3 convolution for the classes and one for the deltas on each source map."""

    def __init__(self, options: SsdHeadOptions, *, in_channels: Sequence[int], num_classes: int) -> None:
        """For maps of `in_channels`, and `num_classes` with the background."""
        super().__init__()
        self.options = options
        sizes = options.anchor_sizes
        bases = [
            single_shot_anchors(stride, size=size, next_size=next_size, largest_ratio=ratio)
            for stride, size, next_size, ratio in zip(
                options.strides, sizes[:-1], sizes[1:], options.anchor_ratios, strict=True
            )
        ]
        self.anchor_grid = AnchorGrid(strides=options.strides, bases=bases)
        self.anchors_per_cell = [len(base) for base in bases]
        self.num_classes = num_classes
        self.cls_convs = _convs(in_channels, [count * num_classes for count in self.anchors_per_cell])
        self.reg_convs = _convs(in_channels, [count * 4 for count in self.anchors_per_cell])
        self.assigner = MaxIouAssigner(
            positive_iou=options.positive_iou,
            negative_iou=options.positive_iou,
            min_positive_iou=0,
            share_best=False,
        )

    def class_rows(self) -> Mapping[str, ClassRows]:
        """Each anchor of a map has a filter for each class."""
        return {
            f"cls_convs.{level}": ClassRows(num_groups=count)
            for level, count in enumerate(self.anchors_per_cell)
        }

    def forward(self, sources: Sequence[Tensor]) -> DenseOutput:
        """Judge the anchors of each (B, C, h, w) source map."""
        logits, deltas = self._maps(sources)
        return DenseOutput(logits=logits, deltas=deltas, anchors=self.anchor_grid(sources))

    @compilable("sizes")
    def _maps(self, sources: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits = [conv(source) for conv, source in zip(self.cls_convs, sources, strict=True)]
        deltas = [conv(source) for conv, source in zip(self.reg_convs, sources, strict=True)]
        return logits, deltas

    def image_losses(self, output: DenseOutput, targets: Targets) -> dict[str, Tensor]:
        """``loss_cls`` and ``loss_reg`` of each image (B,), divided by the positives of all images."""
        everywhere = output.anchors.new_ones(len(targets.valid), len(output.anchors), dtype=torch.bool)
        wanted = dense.assign(
            self.assigner, output.anchors, targets, taking_part=everywhere, stds=self.options.target_stds
        )
        logits = dense.all_levels(output.logits, self.num_classes)
        deltas = dense.all_levels(output.deltas, 4)
        return self.mined_losses(logits, deltas, wanted)

    def mined_losses(self, logits: Tensor, deltas: Tensor, wanted: DenseTargets) -> dict[str, Tensor]:
        """The same of (B, N, num_classes) `logits` and (B, N, 4) `deltas`.

        Of the negatives those with the highest loss count, so many for each positive of their image
        (Liu et al., 2015; `docs/zoo.md`, 8).
        """
        each = losses.cross_entropy(logits, wanted.labels, used=wanted.used)
        of_positives = torch.where(wanted.positive, each, 0).sum(dim=1)
        hardest = torch.where(wanted.positive, 0, each).sort(dim=1, descending=True).values
        count = wanted.positive.sum(dim=1, keepdim=True) * self.options.negatives_per_positive
        ranks = torch.arange(hardest.shape[1], device=hardest.device)
        of_negatives = torch.where(ranks < count, hardest, 0).sum(dim=1)
        regression = losses.smooth_l1(deltas, wanted.deltas, used=wanted.positive, beta=_REGRESSION_BETA)
        divisor = wanted.divisor()
        return {
            "loss_cls": (of_positives + of_negatives) / divisor,
            "loss_reg": regression.sum(dim=1) / divisor,
        }

    def detect(self, output: DenseOutput, images: Images, scale_factors: Tensor) -> list[Detections]:
        """The detections of each image, in pixels before it was scaled by (B, 4) `scale_factors`."""
        scores = dense.all_levels(output.logits, self.num_classes).softmax(dim=-1)
        boxes = box_ops.decode(
            output.anchors,
            dense.all_levels(output.deltas, 4),
            sizes=images.sizes[:, None],
            stds=self.options.target_stds,
        )
        original = boxes / scale_factors[:, None]
        return nms.detections(original[:, :, None], scores, options=self.options)


def _convs(in_channels: Sequence[int], out_channels: Sequence[int]) -> nn.ModuleList:
    convs = nn.ModuleList()
    for width, out_width in zip(in_channels, out_channels, strict=True):
        conv = nn.Conv2d(width, out_width, 3, padding=1)
        nn.init.xavier_uniform_(conv.weight)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        convs.append(conv)
    return convs
