"""Heads that detect in one stage; the defaults are the zoo's (`zoo.md` 7, 8).

Each class holds the keyword arguments of the module of the same name in `kubedet_trainer.models`, which knows
nothing of this file.
"""

from __future__ import annotations

from dataclasses import dataclass

from kubedet_trainer.config import rules


@dataclass(frozen=True, kw_only=True)
class RetinaHeadConfig:
    """Dense classification and refinement with the focal loss (Lin et al., 2017; `zoo.md` 7)."""

    num_convs: int = 4
    """3x3 convolutions of each of the two towers."""
    anchor_scale: float = 4.0
    """Side of the smallest square anchor in units of a level's stride."""
    scales_per_octave: int = 3
    """Anchors of each ratio, their sides spaced evenly in the logarithm up to the next level's."""
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height over width."""
    positive_iou: float = 0.5
    """An anchor at or above this overlap with a ground truth is positive."""
    negative_iou: float = 0.4
    """An anchor below this overlap with all ground truths is negative."""
    focal_gamma: float = 2.0
    """How strongly well classified anchors are discounted."""
    focal_alpha: float = 0.25
    """Weight of positives against 1 - this of negatives."""
    regression_beta: float = 0.11
    """Where the smooth L1 loss turns from square to linear."""
    nms_pre: int = 1000
    """Best anchors of each level that enter non-maximum suppression."""
    score_threshold: float = 0.05
    """Detections must score above this."""
    nms_iou: float = 0.5
    """A detection that overlaps a better one of its class by more than this is suppressed."""
    max_detections: int = 100
    """Most detections of an image."""

    def __post_init__(self) -> None:
        """Refuse thresholds that contradict each other and sizes below one."""
        path = "model.retina_head"
        rules.require_positive(
            path,
            num_convs=self.num_convs,
            anchor_scale=self.anchor_scale,
            scales_per_octave=self.scales_per_octave,
            regression_beta=self.regression_beta,
            nms_pre=self.nms_pre,
            max_detections=self.max_detections,
        )
        rules.require_fraction(
            path,
            positive_iou=self.positive_iou,
            negative_iou=self.negative_iou,
            focal_alpha=self.focal_alpha,
            score_threshold=self.score_threshold,
            nms_iou=self.nms_iou,
        )
        rules.require(
            self.negative_iou <= self.positive_iou,
            path=f"{path}.negative_iou",
            got=self.negative_iou,
            rule=f"must be <= positive_iou = {self.positive_iou}",
        )


@dataclass(frozen=True, kw_only=True)
class SsdHeadConfig:
    """Scores and refines anchors on each source map (Liu et al., 2015; `zoo.md` 8)."""

    strides: tuple[int, ...] = (8, 16, 32, 64, 100, 300)
    """Of the source maps, in pixels."""
    anchor_sizes: tuple[int, ...] = (21, 45, 99, 153, 207, 261, 315)
    """Sides of the square anchors in pixels: map i has those of sides i and sqrt(side i * side i + 1)."""
    anchor_ratios: tuple[int, ...] = (2, 3, 3, 3, 2, 2)
    """The largest ratio of each map: 2 stands for 1/2 and 2, 3 for 1/3 and 3 besides."""
    positive_iou: float = 0.5
    """An anchor at or above this overlap with a ground truth is positive, below it negative."""
    negatives_per_positive: int = 3
    """The worst classified negatives, this many for each positive, count in the loss."""
    target_stds: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    """Scale of the regression targets dx, dy, dw, dh."""
    score_threshold: float = 0.02
    """Detections must score above this."""
    nms_iou: float = 0.45
    """A detection that overlaps a better one of its class by more than this is suppressed."""
    max_detections: int = 200
    """Most detections of an image."""

    def __post_init__(self) -> None:
        """Refuse lists that do not fit each other and thresholds outside [0, 1]."""
        path = "model.ssd_head"
        maps = len(self.strides)
        rules.require(
            len(self.anchor_sizes) == maps + 1 and min(self.anchor_sizes) > 0,
            path=f"{path}.anchor_sizes",
            got=self.anchor_sizes,
            rule=f"must be {maps + 1} numbers > 0, one more than strides",
        )
        rules.require(
            len(self.anchor_ratios) == maps and set(self.anchor_ratios) <= {2, 3},
            path=f"{path}.anchor_ratios",
            got=self.anchor_ratios,
            rule=f"must be {maps} numbers, each 2 or 3",
        )
        rules.require_positive(
            path,
            negatives_per_positive=self.negatives_per_positive,
            max_detections=self.max_detections,
            target_stds=min(self.target_stds),
        )
        rules.require_fraction(
            path,
            positive_iou=self.positive_iou,
            score_threshold=self.score_threshold,
            nms_iou=self.nms_iou,
        )
