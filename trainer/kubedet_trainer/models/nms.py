"""Non-maximum suppression, the one operation whose result has a size that only the data decides.

Everything that waits for the device in a training step is in this file. IoU counts inclusive corners and must
be strictly above the threshold to suppress (`docs/zoo.md`, 5.4).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from kubedet_trainer.models import boxes as box_ops
from kubedet_trainer.models import host
from kubedet_trainer.models.options.boxes import DetectionOptions
from kubedet_trainer.structures import Detections


def survivors(
    boxes: Tensor, scores: Tensor, *, sections: Sequence[int], iou_threshold: float, most: int, extent: int
) -> Tensor:
    """Which of (B, N, 4) `boxes` with (B, N) `scores` no better one of their section suppresses: (B, N) bool.

    `sections` are lengths that add up to N, best first in each; of those that survive a section keeps the
    best `most`. No box reaches `extent` pixels. On a GPU all sections of all images are one call, so that the
    host waits once.
    """
    parts = torch.split(boxes, list(sections), dim=1)
    suppress = _one_by_one if host.counts_are_free(boxes.device) else _all_at_once
    kept = suppress(
        parts, torch.split(scores, list(sections), dim=1), iou_threshold=iou_threshold, extent=extent
    )
    if most >= max(sections):
        return kept
    return torch.cat(
        [part & (part.cumsum(dim=1) <= most) for part in torch.split(kept, list(sections), dim=1)], dim=1
    )


def _one_by_one(
    boxes: Sequence[Tensor], scores: Sequence[Tensor], *, iou_threshold: float, extent: int
) -> Tensor:
    """Quadratic in the boxes of one section, and exact in the order of `scores`."""
    kept = [torch.zeros_like(section, dtype=torch.bool) for section in scores]
    for own_boxes, own_scores, own_kept in zip(boxes, scores, kept, strict=True):
        for image_boxes, image_scores, image_kept in zip(own_boxes, own_scores, own_kept, strict=True):
            image_kept[nms(box_ops.exclusive_corners(image_boxes), image_scores, iou_threshold)] = True
    return torch.cat(kept, dim=1)


def _all_at_once(
    boxes: Sequence[Tensor], scores: Sequence[Tensor], *, iou_threshold: float, extent: int
) -> Tensor:
    """Sections lie apart: each is shifted along x, in double precision, which leaves every IoU as it is."""
    width = extent + 1
    shifted = torch.cat(
        [part + width * index for index, part in enumerate(part.double() for part in boxes)], 1
    )
    images = torch.arange(len(shifted), device=shifted.device)[:, None, None] * (width * len(boxes))
    every = torch.cat(list(scores), dim=1)
    found = nms(
        box_ops.exclusive_corners(shifted + images).flatten(0, 1), every.double().flatten(), iou_threshold
    )
    return torch.zeros_like(every, dtype=torch.bool).view(-1).index_fill(0, found, True).view_as(every)


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
