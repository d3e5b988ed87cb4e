"""Non-maximum suppression, the one operation whose result has a size that only the data decides.

Everything that waits for the device in a training step is in this file. IoU counts inclusive corners and must
be strictly above the threshold to suppress (`docs/zoo.md`, 5.4).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from kubedet_trainer.models import boxes as box_ops
from kubedet_trainer.models import host
from kubedet_trainer.models.options.boxes import DetectionOptions
from kubedet_trainer.structures import Detections


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
    parts = (torch.split(values, sections, dim=1) for values in (boxes, scores, kept))
    for section in zip(*parts, strict=True):
        for image_boxes, image_scores, image_kept in zip(*section, strict=True):
            image_kept[nms(box_ops.exclusive_corners(image_boxes), image_scores, iou_threshold)] = True
    return kept


def _all_at_once(
    boxes: Tensor, scores: Tensor, *, sections: list[int], iou_threshold: float, extent: int
) -> Tensor:
    """One call, in which the boxes of each section and image are shifted to where no others are.

    Coordinates are in double precision, so that the shifted ones are as far apart as they were.
    """
    parts = torch.split(boxes.double(), sections, dim=1)
    step = extent + 1
    shifted = torch.cat([part + step * index for index, part in enumerate(parts)], dim=1)
    images = torch.arange(len(boxes), device=boxes.device)[:, None, None] * (step * len(sections))
    corners = box_ops.exclusive_corners(shifted + images).flatten(0, 1)
    found = nms(corners, scores.double().flatten(), iou_threshold)
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
    # Classes may be kept apart by shifting boxes; only double precision leaves every IoU as it is then.
    corners = box_ops.exclusive_corners(candidates.double())
    kept = batched_nms(corners, candidate_scores.double(), labels, options.nms_iou)[: options.max_detections]
    return Detections(boxes=candidates[kept], scores=candidate_scores[kept], labels=labels[kept])
