"""Which proposals the second stage trains on, and what each should become (`docs/zoo.md`, 5.3)."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from kubedet_trainer.models import host
from kubedet_trainer.models.assign import MaxIouAssigner
from kubedet_trainer.models.sample import BalancedSampler
from kubedet_trainer.structures import Proposals, Targets


@dataclass(frozen=True, kw_only=True)
class RegionSamples:
    """S regions of each image with what they should become, positives first, empty slots last."""

    boxes: Tensor
    """(B, S, 4)."""
    labels: Tensor
    """(B, S) int64, 0 for the background and in empty slots."""
    gt_slots: Tensor
    """(B, S) int64, the ground truth of a positive; 0 elsewhere."""
    gt_boxes: Tensor
    """(B, S, 4), the box of that ground truth."""
    positive: Tensor
    """(B, S) bool."""
    used: Tensor
    """(B, S) bool, False in empty slots."""
    from_gt: Tensor
    """(B, S) bool, whether the region is itself a ground truth rather than a proposal."""

    def positives(self, most: int) -> RegionSamples:
        """The regions among which are all positive ones, the first `most` of each image.

        Where that is known without waiting they are as many as the image with most positives has, but one at
        least, so that everything takes part in the gradient. Losses are the same either way.
        """
        count = (
            max(1, int(self.positive.sum(dim=1).max()))
            if host.counts_are_free(self.positive.device)
            else most
        )
        return RegionSamples(**{item.name: getattr(self, item.name)[:, :count] for item in fields(self)})


@dataclass(frozen=True, kw_only=True)
class RegionSampler:
    """Ground truths are added to the proposals as positives; a share of all becomes the samples."""

    assigner: MaxIouAssigner
    sampler: BalancedSampler

    @property
    def max_positives(self) -> int:
        """Regions of an image after which none is positive."""
        return int(self.sampler.num_samples * self.sampler.positive_fraction)

    @torch.no_grad()
    def __call__(self, proposals: Proposals, targets: Targets, generator: torch.Generator) -> RegionSamples:
        """Candidates are ordered ground truths first, then `proposals` as they come."""
        assigned = self.assigner(proposals.boxes, proposals.valid, targets.boxes, targets.valid).targets
        num_slots = targets.valid.shape[1]
        own_slots = torch.arange(1, num_slots + 1, device=assigned.device)
        assigned = torch.cat([torch.where(targets.valid, own_slots, -1), assigned], dim=1)
        candidates = torch.cat([targets.boxes, proposals.boxes], dim=1)
        samples = self.sampler(assigned, generator)
        gt_slots = (assigned.gather(1, samples.indices) - 1).clamp(min=0)
        as_boxes = (-1, -1, 4)
        return RegionSamples(
            boxes=candidates.gather(1, samples.indices[..., None].expand(as_boxes)),
            labels=targets.labels.gather(1, gt_slots) * samples.positive,
            gt_slots=gt_slots,
            gt_boxes=targets.boxes.gather(1, gt_slots[..., None].expand(as_boxes)),
            positive=samples.positive,
            used=samples.positive | samples.negative,
            from_gt=samples.indices < num_slots,
        )
