"""Heads that detect in one stage (`docs/zoo.md`, 7 and 8)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from kubedet_trainer.contract.bounds import bounded
from kubedet_trainer.models.options.boxes import DetectionOptions, Stds


@dataclass(frozen=True, kw_only=True)
class RetinaHeadOptions(DetectionOptions):
    """Dense classification and refinement with the focal loss (Lin et al., 2017; `docs/zoo.md`, 7)."""

    num_convs: int = bounded(default=4, minimum=1)
    """3x3 convolutions of each of the two towers."""
    anchor_scale: float = bounded(default=4.0, exclusive_minimum=0)
    """Side of the smallest square anchor in units of a level's stride."""
    scales_per_octave: int = bounded(default=3, minimum=1)
    """Anchors of each ratio, their sides spaced evenly in the logarithm up to the next level's."""
    anchor_ratios: tuple[float, ...] = bounded(default=(0.5, 1.0, 2.0), exclusive_minimum=0, min_items=1)
    """Height over width."""
    positive_iou: float = bounded(default=0.5, minimum=0, maximum=1)
    """An anchor at or above this overlap with a ground truth is positive."""
    negative_iou: float = bounded(default=0.4, minimum=0, maximum=1)
    """An anchor below this overlap with all ground truths is negative."""
    focal_gamma: float = bounded(default=2.0, minimum=0)
    """How strongly well classified anchors are discounted."""
    focal_alpha: float = bounded(default=0.25, minimum=0, maximum=1)
    """Weight of positives against 1 - this of negatives."""
    regression_beta: float = bounded(default=0.11, exclusive_minimum=0)
    """Where the smooth L1 loss turns from square to linear."""
    nms_pre: int = bounded(default=1000, minimum=1)
    """Best anchors of each level that enter non-maximum suppression."""

    def breaches(self) -> Iterator[tuple[str, str]]:
        """Thresholds by which an anchor would be both positive and negative."""
        if self.negative_iou > self.positive_iou:
            yield "negative_iou", f"must be <= positive_iou = {self.positive_iou}"


@dataclass(frozen=True, kw_only=True)
class SsdHeadOptions(DetectionOptions):
    """Scores and refines anchors on each source map (Liu et al., 2015; `docs/zoo.md`, 8)."""

    strides: tuple[int, ...] = bounded(default=(8, 16, 32, 64, 100, 300), minimum=1, min_items=1)
    """Of the source maps, in pixels."""
    anchor_sizes: tuple[int, ...] = bounded(default=(21, 45, 99, 153, 207, 261, 315), minimum=1)
    """Sides of the square anchors in pixels: map i has those of sides i and sqrt(side i * side i + 1)."""
    anchor_ratios: tuple[Literal[2, 3], ...] = (2, 3, 3, 3, 2, 2)
    """The largest ratio of each map: 2 stands for 1/2 and 2, 3 for 1/3 and 3 besides."""
    positive_iou: float = bounded(default=0.5, minimum=0, maximum=1)
    """An anchor at or above this overlap with a ground truth is positive, below it negative."""
    negatives_per_positive: int = bounded(default=3, minimum=1)
    """The worst classified negatives, this many for each positive, count in the loss."""
    target_stds: Stds = bounded(default=(0.1, 0.1, 0.2, 0.2), exclusive_minimum=0)
    """Scale of the regression targets dx, dy, dw, dh."""
    score_threshold: float = bounded(default=0.02, minimum=0, maximum=1)
    """Detections must score above this."""
    nms_iou: float = bounded(default=0.45, minimum=0, maximum=1)
    """A detection that overlaps a better one of its class by more than this is suppressed."""
    max_detections: int = bounded(default=200, minimum=1)
    """Most detections of an image."""

    def breaches(self) -> Iterator[tuple[str, str]]:
        """Lists that do not fit each other."""
        maps = len(self.strides)
        if len(self.anchor_sizes) != maps + 1:
            yield "anchor_sizes", f"must be {maps + 1} numbers, one more than strides"
        if len(self.anchor_ratios) != maps:
            yield "anchor_ratios", f"must be {maps} numbers, as many as strides"
