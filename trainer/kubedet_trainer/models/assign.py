"""Which ground truth, if any, each box stands for, by overlap (`docs/zoo.md`, 4.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kubedet_trainer.models import boxes

IGNORED = -1
"""Assignment of a box that is neither positive nor negative."""

NEGATIVE = 0
"""Assignment of a box to the background."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """The verdict on the N boxes of each image."""

    targets: Tensor
    """(B, N) int64: `IGNORED`, `NEGATIVE`, or 1 + the slot of the ground truth."""
    overlaps: Tensor
    """(B, N) float32, the best overlap with any ground truth; -1 for boxes that take no part."""


@dataclass(frozen=True, kw_only=True)
class MaxIouAssigner:
    """Assigns each box to the ground truth that it overlaps most.

    A box with an overlap of at least `positive_iou` is positive, of less than `negative_iou` negative.
    Besides, all boxes that reach a ground truth's best overlap are its own if that is at least
    `min_positive_iou`; a later ground truth takes them from an earlier one. Without `share_best` only the
    first of those boxes is.
    """

    positive_iou: float
    negative_iou: float
    min_positive_iou: float
    share_best: bool = True

    def __call__(
        self, candidates: Tensor, taking_part: Tensor, gt_boxes: Tensor, gt_valid: Tensor
    ) -> Assignment:
        """Assign `candidates`, where (B, N) `taking_part`, to (B, G, 4) `gt_boxes`, where (B, G) `gt_valid`.

        The candidates are (B, N, 4), or (N, 4) if they are those of every image. Without any valid ground
        truth all that take part are negative.
        """
        overlaps_BGN = boxes.pairwise_iou(gt_boxes, candidates)
        overlaps_BGN.masked_fill_(~gt_valid[..., None], 0).masked_fill_(~taking_part[:, None], -1)
        best_overlap, best_gt = overlaps_BGN.max(dim=1)
        targets = torch.where(best_overlap >= self.positive_iou, best_gt + 1, IGNORED)
        targets.masked_fill_((best_overlap >= 0) & (best_overlap < self.negative_iou), NEGATIVE)
        claimed_by = self._claims(overlaps_BGN, gt_valid)
        return Assignment(
            targets=torch.where(claimed_by > 0, claimed_by, targets),
            overlaps=best_overlap,
        )

    def _claims(self, overlaps_BGN: Tensor, gt_valid: Tensor) -> Tensor:
        """1 + the last ground truth whose best overlap each box reaches: (B, N) int64, 0 for none."""
        best_of_gt, first_best = overlaps_BGN.max(dim=2, keepdim=True)
        claims = (best_of_gt >= max(self.min_positive_iou, 0)) & gt_valid[..., None]
        slots = torch.arange(1, gt_valid.shape[1] + 1, device=gt_valid.device, dtype=torch.int32)[:, None]
        own_slots = claims * slots
        if self.share_best:
            best = overlaps_BGN == best_of_gt
        else:
            best = torch.arange(overlaps_BGN.shape[2], device=gt_valid.device) == first_best
        return (best * own_slots).amax(dim=1).long()
