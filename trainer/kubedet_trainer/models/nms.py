"""Non-maximum suppression, the one operation whose result has a size that only the data decides.

Everything that waits for the device in a training step is in this file. IoU counts inclusive corners and must
be strictly above the threshold to suppress (`docs/zoo.md`, 5.4).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from kubedet_trainer.models import boxes as box_ops
from kubedet_trainer.models.options.boxes import DetectionOptions
from kubedet_trainer.structures import Detections


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Survivors in a fixed number of slots, best first; empty slots come last and repeat box 0."""

    indices: Tensor
    """(slots,) int64, which box."""
    valid: Tensor
    """(slots,) bool."""


def suppress(boxes: Tensor, scores: Tensor, *, iou_threshold: float, slots: int) -> Kept:
    """The best `slots` of (N, 4) `boxes` after suppression, padded to exactly `slots`."""
    kept = nms(box_ops.exclusive_corners(boxes), scores, iou_threshold)[:slots]
    indices = kept.new_zeros(slots)
    indices[: len(kept)] = kept
    valid = torch.arange(slots, device=kept.device) < len(kept)
    return Kept(indices=indices, valid=valid)


def detections(boxes: Tensor, scores: Tensor, *, options: DetectionOptions) -> list[Detections]:
    """`suppress_per_class` of each image of a batch: (B, N, C or 1, 4) `boxes` and (B, N, C) `scores`."""
    return [
        suppress_per_class(image_boxes, image_scores, options=options)
        for image_boxes, image_scores in zip(boxes, scores, strict=True)
    ]


def suppress_per_class(boxes: Tensor, scores: Tensor, *, options: DetectionOptions) -> Detections:
    """Detections of one image from (N, C, 4) `boxes` and (N, C) `scores`; column 0 is the background.

    A box that all classes share comes as (N, 1, 4). Classes do not suppress each other
    (`docs/zoo.md`, 5.4).
    """
    found = (scores > options.score_threshold).nonzero()
    found = found[found[:, 1] > 0]
    rows, labels = found.unbind(dim=1)
    candidates = boxes.expand(-1, scores.shape[1], -1)[rows, labels]
    candidate_scores = scores[rows, labels]
    # Classes may be kept apart by shifting boxes; only double precision leaves every IoU as it is then.
    corners = box_ops.exclusive_corners(candidates.double())
    kept = batched_nms(corners, candidate_scores.double(), labels, options.nms_iou)[: options.max_detections]
    return Detections(boxes=candidates[kept], scores=candidate_scores[kept], labels=labels[kept])
