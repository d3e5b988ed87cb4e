"""Non-maximum suppression, the one operation whose result has a size that only the data decides.

Everything that waits for the device in a training step is in this file. IoU counts inclusive corners and must
be strictly above the threshold to suppress (`docs/zoo.md`, 5.4). All devices keep the same boxes, whether
groups of boxes are suppressed in one call or in one call each: IoU is computed in double precision, in which
boxes may be shifted, and of boxes with equal scores the first is the better one.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

from kubedet_trainer.models import boxes as box_ops
from kubedet_trainer.models import host
from kubedet_trainer.models.options.boxes import DetectionOptions
from kubedet_trainer.structures import Detections

_MOST_AT_ONCE = {"cpu": 1000, "cuda": 25_000}
"""Boxes of several groups that one call takes. The time of a call grows with the square of its boxes, and on
a GPU so does its memory, to 80 MB here; a call for each group has an overhead."""


def survivors(
    boxes: Tensor, scores: Tensor, *, sections: list[int], iou_threshold: float, most: int, extent: int
) -> Tensor:
    """Which of (B, N, 4) `boxes` with (B, N) `scores` no better one of their section suppresses: (B, N) bool.

    `sections` are lengths that add up to N, best first in each; of those that survive a section keeps the
    best `most`. No box reaches `extent` pixels. On a GPU all sections of all images are one call, so that the
    host waits once.
    """
    if host.counts_are_free(boxes.device):
        kept = _one_by_one(boxes, scores, sections=sections, iou_threshold=iou_threshold)
    else:
        kept = _all_at_once(boxes, scores, sections=sections, iou_threshold=iou_threshold, extent=extent)
    if most >= max(sections):
        return kept
    parts = torch.split(kept, sections, dim=1)
    return torch.cat([part & (part.cumsum(dim=1) <= most) for part in parts], dim=1)


def _one_by_one(boxes: Tensor, scores: Tensor, *, sections: list[int], iou_threshold: float) -> Tensor:
    """As many calls as there are sections and images: the time of one grows with the square of its boxes."""
    kept = torch.zeros_like(scores, dtype=torch.bool)
    parts = (torch.split(values, sections, dim=1) for values in (_corners(boxes), scores.double(), kept))
    for section in zip(*parts, strict=True):
        for image_corners, image_scores, image_kept in zip(*section, strict=True):
            image_kept[_nms(image_corners, image_scores, iou_threshold)] = True
    return kept


def _all_at_once(
    boxes: Tensor, scores: Tensor, *, sections: list[int], iou_threshold: float, extent: int
) -> Tensor:
    """One call, in which the boxes of each section and image are shifted to where no others are."""
    step = extent + 1
    parts = torch.split(_corners(boxes), sections, dim=1)
    shifted = torch.cat([part + step * index for index, part in enumerate(parts)], dim=1)
    images = torch.arange(len(boxes), device=boxes.device)[:, None, None] * (step * len(sections))
    found = _nms((shifted + images).flatten(0, 1), scores.double().flatten(), iou_threshold)
    return torch.zeros_like(scores, dtype=torch.bool).view(-1).index_fill(0, found, True).view_as(scores)


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
    kept = _best_of_groups(candidates, candidate_scores, labels, iou_threshold=options.nms_iou)
    kept = kept[: options.max_detections]
    return Detections(boxes=candidates[kept], scores=candidate_scores[kept], labels=labels[kept])


def _best_of_groups(boxes: Tensor, scores: Tensor, groups: Tensor, *, iou_threshold: float) -> Tensor:
    """Indices (K,), best first, of those of (N, 4) `boxes` that no better one of their group suppresses."""
    corners, scores = _corners(boxes), scores.double()
    if len(boxes) == 0:
        return groups
    if len(boxes) <= _MOST_AT_ONCE[boxes.device.type]:
        shifts = groups * (corners.amax() + 1)
        return _nms(corners + shifts[:, None], scores, iou_threshold)
    kept = torch.zeros_like(groups, dtype=torch.bool)
    for group in set(groups.tolist()):
        own = (groups == group).nonzero().squeeze(1)
        kept[own[_nms(corners[own], scores[own], iou_threshold)]] = True
    order = scores.argsort(descending=True, stable=True)
    return order[kept[order]]


def _corners(boxes: Tensor) -> Tensor:
    """Exclusive corners in double precision, in which shifted boxes are as far apart as they were."""
    return box_ops.exclusive_corners(boxes.double())


def _nms(corners: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the survivors, best first; of boxes with equal scores the first is the better one.

    torchvision's kernel for GPUs rounds the threshold to float32, its other one does not. Where that were
    less, a box whose IoU is equal to the threshold would be suppressed there; the next float32 lets it be.
    """
    if not host.computes(corners.device):
        iou_threshold = float32_not_below(iou_threshold)
    kept: Tensor = nms(corners, scores, iou_threshold)
    return kept


def float32_not_below(value: float) -> float:
    """The smallest float32 that is not less than `value`."""
    rounded = np.float32(value)
    return float(rounded) if float(rounded) >= value else float(np.nextafter(rounded, np.float32(np.inf)))
