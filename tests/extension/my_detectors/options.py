"""What the head of FCOS is built from. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from kubedet_trainer.contract.bounds import bounded
from kubedet_trainer.models.options.boxes import DetectionOptions


@dataclass(frozen=True, kw_only=True)
class FcosHeadOptions(DetectionOptions):
    """A fully convolutional one-stage head without anchors (Tian et al., 2019)."""

    num_convs: int = bounded(default=4, minimum=1)
    """3x3 convolutions of each of the two towers."""
    norm_groups: int = bounded(default=32, minimum=1)
    """Groups of the normalisation after each of them."""
    reach: float = bounded(default=8.0, exclusive_minimum=0)
    """A location stands for objects whose farthest side is at most this many strides away."""
    nms_pre: int = bounded(default=1000, minimum=1)
    """Best locations of an image that enter non-maximum suppression."""
    nms_iou: float = bounded(default=0.6, minimum=0, maximum=1)
    """A detection that overlaps a better one of its class by more than this is suppressed."""
