"""What detectors that judge every anchor share: their maps, what each anchor should become, detections.

Source of the order of channels, targets and divisors: `docs/zoo.md`, 7 and 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kubedet_trainer.models import boxes as box_ops
from kubedet_trainer.models.assign import MaxIouAssigner
from kubedet_trainer.structures import Targets


@dataclass(frozen=True, kw_only=True)
class DenseOutput:
    """What the convolutions say about all N anchors of every level; those of a cell share its channels."""

    logits: list[Tensor]
    """(B, A * C, h, w) a level, of the C classes of each of the A anchors of a cell."""
    deltas: list[Tensor]
    """(B, A * 4, h, w) a level."""
    anchors: Tensor
    """(N, 4), ordered by level, row, column, and anchor of a cell."""


def per_anchor(maps: Tensor, width: int) -> Tensor:
    """(B, A * width, h, w) `maps` of one level in the order of the anchors, (B, h, w, A, width): a view."""
    by_anchor = maps.view(len(maps), -1, width, *maps.shape[2:])
    return by_anchor.permute(0, 3, 4, 1, 2)


def all_levels(levels: Sequence[Tensor], width: int) -> Tensor:
    """The maps of all levels in the order of the anchors: a float32 copy (B, N, width)."""
    return torch.cat([per_anchor(maps, width).flatten(1, 3) for maps in levels], dim=1).float()


@dataclass(frozen=True, kw_only=True)
class DenseTargets:
    """What each of the N anchors should become."""

    labels: Tensor
    """(B, N) int64, 0 for the background and where unused."""
    deltas: Tensor
    """(B, N, 4), anything where not positive."""
    positive: Tensor
    """(B, N) bool, whether the anchor stands for a ground truth."""
    used: Tensor
    """(B, N) bool, False where it counts neither as positive nor as negative."""

    def divisor(self) -> Tensor:
        """What the losses of a batch are divided by: its positives, at least one an image."""
        return self.positive.sum(dim=1).clamp(min=1).sum()


@torch.no_grad()
def assign(
    assigner: MaxIouAssigner,
    anchors: Tensor,
    targets: Targets,
    *,
    taking_part: Tensor,
    stds: tuple[float, ...] | None = None,
) -> DenseTargets:
    """Assign (N, 4) `anchors`, where (B, N) `taking_part`; `stds` are those of `boxes.encode`."""
    assigned = assigner(anchors, taking_part, targets.boxes, targets.valid).targets
    positive = assigned > 0
    slots = (assigned - 1).clamp_(min=0)
    gt_boxes = targets.boxes.gather(1, slots[..., None].expand(-1, -1, 4))
    return DenseTargets(
        labels=torch.where(positive, targets.labels.gather(1, slots), 0),
        deltas=box_ops.encode(anchors, gt_boxes, stds=stds),
        positive=positive,
        used=assigned >= 0,
    )
