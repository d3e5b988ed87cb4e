"""Heads of detectors of two stages; the defaults are the zoo's (`zoo.md` 4 to 6).

Each class holds the keyword arguments of the module of the same name in `kubedet_trainer.models`, which knows
nothing of this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from kubedet_trainer.config import rules
from kubedet_trainer.config.backbones import ConvNorm

RoiKind = Literal["align", "deformable", "modulated"]


@dataclass(frozen=True, kw_only=True)
class RpnHeadConfig:
    """A region proposal network: its anchors, its targets and what it proposes (`zoo.md` 4)."""

    anchor_scales: tuple[float, ...] = (8.0,)
    """Side of the square anchors in units of a level's stride."""
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height over width."""
    positive_iou: float = 0.7
    """An anchor at or above this overlap with a ground truth is positive."""
    negative_iou: float = 0.3
    """An anchor below this overlap with all ground truths is negative."""
    min_positive_iou: float = 0.3
    """A ground truth's best anchors are positive from this overlap on."""
    num_samples: int = 256
    """Anchors of one image that the loss is computed on."""
    positive_fraction: float = 0.5
    """At most this share of the samples is positive."""
    nms_pre: int = 2000
    """Best anchors of each level that enter non-maximum suppression."""
    nms_post: int = 2000
    """Most proposals that each level keeps."""
    num_proposals: int = 2000
    """Most proposals of an image, over all levels; the tensors always have this many slots or fewer."""
    nms_iou: float = 0.7
    """A proposal that overlaps a better one of its level by more than this is suppressed."""

    def __post_init__(self) -> None:
        """Refuse thresholds that contradict each other and sizes below one."""
        path = "model.rpn_head"
        for name in ("anchor_scales", "anchor_ratios"):
            values = getattr(self, name)
            rules.require(
                bool(values) and min(values) > 0,
                path=f"{path}.{name}",
                got=values,
                rule="must be numbers > 0",
            )
        rules.require_positive(
            path,
            num_samples=self.num_samples,
            nms_pre=self.nms_pre,
            nms_post=self.nms_post,
            num_proposals=self.num_proposals,
        )
        rules.require_fraction(
            path,
            positive_iou=self.positive_iou,
            negative_iou=self.negative_iou,
            min_positive_iou=self.min_positive_iou,
            positive_fraction=self.positive_fraction,
            nms_iou=self.nms_iou,
        )
        rules.require(
            self.negative_iou <= self.positive_iou,
            path=f"{path}.negative_iou",
            got=self.negative_iou,
            rule=f"must be <= positive_iou = {self.positive_iou}",
        )


@dataclass(frozen=True, kw_only=True)
class RoiConfig:
    """How the features of a region are pooled from the pyramid (`zoo.md` 2.6, 5.1)."""

    kind: RoiKind = "align"
    """RoIAlign, or pooling whose bins learn where to look, modulated or not."""
    size: int = 7
    """Side of the pooled features of a region, in bins."""
    finest_roi: float = 56.0
    """A region of up to twice this side, in pixels, is pooled from the finest level."""
    offset_channels: int = 1024
    """Width of the layers that say where the bins look; unused with RoIAlign."""

    def __post_init__(self) -> None:
        """Refuse sizes below one."""
        path = "model.roi"
        rules.require_choice(f"{path}.kind", self.kind, get_args(RoiKind))
        rules.require_positive(
            path, size=self.size, finest_roi=self.finest_roi, offset_channels=self.offset_channels
        )


@dataclass(frozen=True, kw_only=True)
class BoxHeadConfig:
    """The second stage: classify and refine proposals (`zoo.md` 5)."""

    num_convs: int = 0
    """3x3 convolutions on the pooled features, before the fully connected layers."""
    num_fcs: int = 2
    """Fully connected layers that classification and refinement share."""
    fc_channels: int = 1024
    """Width of those layers."""
    norm: ConvNorm = "none"
    """Group normalisation after each convolution, or none."""
    norm_groups: int = 32
    """Groups of each group normalisation; unused without."""
    class_agnostic: bool = False
    """Whether all classes share one refinement of a box."""
    positive_iou: float = 0.5
    """A proposal at or above this overlap with a ground truth is positive, below it negative."""
    num_samples: int = 512
    """Proposals of one image that the loss is computed on."""
    positive_fraction: float = 0.25
    """At most this share of the samples is positive."""
    target_stds: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    """Scale of the regression targets dx, dy, dw, dh."""
    score_threshold: float = 0.05
    """Detections must score above this."""
    nms_iou: float = 0.5
    """A detection that overlaps a better one of its class by more than this is suppressed."""
    max_detections: int = 100
    """Most detections of an image."""

    def __post_init__(self) -> None:
        """Refuse thresholds outside [0, 1] and sizes below one."""
        path = "model.box_head"
        rules.require_positive(
            path,
            fc_channels=self.fc_channels,
            num_fcs=self.num_fcs,
            norm_groups=self.norm_groups,
            num_samples=self.num_samples,
            max_detections=self.max_detections,
        )
        rules.require_fraction(
            path,
            positive_iou=self.positive_iou,
            positive_fraction=self.positive_fraction,
            score_threshold=self.score_threshold,
            nms_iou=self.nms_iou,
        )
        rules.require(self.num_convs >= 0, path=f"{path}.num_convs", got=self.num_convs, rule="must be >= 0")
        rules.require(
            min(self.target_stds) > 0,
            path=f"{path}.target_stds",
            got=self.target_stds,
            rule="must be numbers > 0",
        )


@dataclass(frozen=True, kw_only=True)
class MaskHeadConfig:
    """The outline of each object, as one bitmap a class of twice the pooled size (`zoo.md` 5.5)."""

    num_convs: int = 4
    """3x3 convolutions on the pooled features."""
    channels: int = 256
    """Of each of them."""
    norm: ConvNorm = "none"
    """Group normalisation after each of them, or none."""
    norm_groups: int = 32
    """Groups of each group normalisation; unused without."""

    def __post_init__(self) -> None:
        """Refuse sizes below one."""
        rules.require_positive(
            "model.mask_head",
            num_convs=self.num_convs,
            channels=self.channels,
            norm_groups=self.norm_groups,
        )


@dataclass(frozen=True, kw_only=True)
class CascadeConfig:
    """What changes from stage to stage of a cascade; `BoxHeadConfig` has the first one (`zoo.md` 6)."""

    positive_ious: tuple[float, ...] = (0.6, 0.7)
    """Of the second and each further stage, as `BoxHeadConfig.positive_iou`."""
    centre_stds: tuple[float, ...] = (0.05, 0.033)
    """Of the same stages: the scale of dx and dy in `BoxHeadConfig.target_stds`."""
    side_stds: tuple[float, ...] = (0.1, 0.067)
    """Of the same stages: the scale of dw and dh."""
    loss_weights: tuple[float, ...] = (0.5, 0.25)
    """Of the same stages; that of the first is 1."""

    def __post_init__(self) -> None:
        """Refuse lists of unequal length."""
        stages = len(self.positive_ious)
        for name in ("positive_ious", "centre_stds", "side_stds", "loss_weights"):
            values = getattr(self, name)
            rules.require(
                len(values) == stages > 0 and min(values) > 0,
                path=f"model.cascade.{name}",
                got=values,
                rule=f"must be numbers > 0, one for each of the {stages} stages of positive_ious",
            )
