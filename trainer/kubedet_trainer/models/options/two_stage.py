"""Proposals, and the heads that look at their regions (`docs/zoo.md`, 4 to 6)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from kubedet_trainer.contract.bounds import bounded
from kubedet_trainer.models.options.backbones import ConvNorm
from kubedet_trainer.models.options.boxes import DetectionOptions, Stds

RoiKind = Literal["align", "deformable", "modulated"]


@dataclass(frozen=True, kw_only=True)
class RpnHeadOptions:
    """A region proposal network: its anchors, its targets and what it proposes (`docs/zoo.md`, 4)."""

    anchor_scales: tuple[float, ...] = bounded(default=(8.0,), exclusive_minimum=0, min_items=1)
    """Side of the square anchors in units of a level's stride."""
    anchor_ratios: tuple[float, ...] = bounded(default=(0.5, 1.0, 2.0), exclusive_minimum=0, min_items=1)
    """Height over width."""
    positive_iou: float = bounded(default=0.7, minimum=0, maximum=1)
    """An anchor at or above this overlap with a ground truth is positive."""
    negative_iou: float = bounded(default=0.3, minimum=0, maximum=1)
    """An anchor below this overlap with all ground truths is negative."""
    min_positive_iou: float = bounded(default=0.3, minimum=0, maximum=1)
    """A ground truth's best anchors are positive from this overlap on."""
    num_samples: int = bounded(default=256, minimum=1)
    """Anchors of one image that the loss is computed on."""
    positive_fraction: float = bounded(default=0.5, minimum=0, maximum=1)
    """At most this share of the samples is positive."""
    nms_pre: int = bounded(default=2000, minimum=1)
    """Best anchors of each level that enter non-maximum suppression."""
    nms_post: int = bounded(default=2000, minimum=1)
    """Most proposals that each level keeps."""
    num_proposals: int = bounded(default=2000, minimum=1)
    """Most proposals of an image, over all levels; the tensors always have this many slots or fewer."""
    nms_iou: float = bounded(default=0.7, minimum=0, maximum=1)
    """A proposal that overlaps a better one of its level by more than this is suppressed."""

    def breaches(self) -> Iterator[tuple[str, str]]:
        """Thresholds by which an anchor would be both positive and negative."""
        if self.negative_iou > self.positive_iou:
            yield "negative_iou", f"must be <= positive_iou = {self.positive_iou}"


@dataclass(frozen=True, kw_only=True)
class RoiOptions:
    """How the features of a region are pooled from the pyramid (`docs/zoo.md`, 2.6 and 5.1)."""

    kind: RoiKind = "align"
    """RoIAlign, or pooling whose bins learn where to look, modulated or not."""
    size: int = bounded(default=7, minimum=1)
    """Side of the pooled features of a region, in bins."""
    finest_roi: float = bounded(default=56.0, exclusive_minimum=0)
    """A region of up to twice this side, in pixels, is pooled from the finest level."""
    offset_channels: int = bounded(default=1024, minimum=1)
    """Width of the layers that say where the bins look; unused with RoIAlign."""


@dataclass(frozen=True, kw_only=True)
class BoxHeadOptions(DetectionOptions):
    """The second stage: classify and refine proposals (`docs/zoo.md`, 5)."""

    num_convs: int = bounded(default=0, minimum=0)
    """3x3 convolutions on the pooled features, before the fully connected layers."""
    num_fcs: int = bounded(default=2, minimum=1)
    """Fully connected layers that classification and refinement share."""
    fc_channels: int = bounded(default=1024, minimum=1)
    """Width of those layers."""
    norm: ConvNorm = "none"
    """Group normalisation after each convolution, or none."""
    norm_groups: int = bounded(default=32, minimum=1)
    """Groups of each group normalisation; unused without."""
    class_agnostic: bool = False
    """Whether all classes share one refinement of a box."""
    positive_iou: float = bounded(default=0.5, minimum=0, maximum=1)
    """A proposal at or above this overlap with a ground truth is positive, below it negative."""
    num_samples: int = bounded(default=512, minimum=1)
    """Proposals of one image that the loss is computed on."""
    positive_fraction: float = bounded(default=0.25, minimum=0, maximum=1)
    """At most this share of the samples is positive."""
    target_stds: Stds = bounded(default=(0.1, 0.1, 0.2, 0.2), exclusive_minimum=0)
    """Scale of the regression targets dx, dy, dw, dh."""


@dataclass(frozen=True, kw_only=True)
class MaskHeadOptions:
    """The outline of each object, as one bitmap a class of twice the pooled size (`docs/zoo.md`, 5.5)."""

    num_convs: int = bounded(default=4, minimum=1)
    """3x3 convolutions on the pooled features."""
    channels: int = bounded(default=256, minimum=1)
    """Of each of them."""
    norm: ConvNorm = "none"
    """Group normalisation after each of them, or none."""
    norm_groups: int = bounded(default=32, minimum=1)
    """Groups of each group normalisation; unused without."""


@dataclass(frozen=True, kw_only=True)
class CascadeOptions:
    """What changes from stage to stage of a cascade; `BoxHeadOptions` has the first (`docs/zoo.md`, 6)."""

    positive_ious: tuple[float, ...] = bounded(default=(0.6, 0.7), exclusive_minimum=0, min_items=1)
    """Of the second and each further stage, as `BoxHeadOptions.positive_iou`."""
    centre_stds: tuple[float, ...] = bounded(default=(0.05, 0.033), exclusive_minimum=0)
    """Of the same stages: the scale of dx and dy in `BoxHeadOptions.target_stds`."""
    side_stds: tuple[float, ...] = bounded(default=(0.1, 0.067), exclusive_minimum=0)
    """Of the same stages: the scale of dw and dh."""
    loss_weights: tuple[float, ...] = bounded(default=(0.5, 0.25), exclusive_minimum=0)
    """Of the same stages; that of the first is 1."""

    def breaches(self) -> Iterator[tuple[str, str]]:
        """Lists of unequal length."""
        stages = len(self.positive_ious)
        for name in ("centre_stds", "side_stds", "loss_weights"):
            if len(getattr(self, name)) != stages:
                yield name, f"must be {stages} numbers, one for each stage of positive_ious"
