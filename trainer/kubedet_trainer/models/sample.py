"""A fixed number of boxes to compute a loss on, positives first (`docs/zoo.md`, 4.3 and 5.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Priority = Callable[[torch.Size, torch.Generator], Tensor]
"""A number for each candidate of a (B, N) batch; the highest are sampled first."""


def random_priority(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Uniform numbers, so that every subset of the candidates is equally likely."""
    return torch.rand(shape, generator=generator, device=generator.device)


@dataclass(frozen=True, kw_only=True)
class Samples:
    """S of the N candidates of each image. Empty slots come last and repeat some candidate."""

    indices: Tensor
    """(B, S) int64, which candidate."""
    positive: Tensor
    """(B, S) bool."""
    negative: Tensor
    """(B, S) bool; a slot that is neither positive nor negative is empty."""


@dataclass(frozen=True, kw_only=True)
class BalancedSampler:
    """Draws positives up to a share of the samples and fills up with negatives, without replacement."""

    num_samples: int
    positive_fraction: float
    priority: Priority = random_priority

    def __call__(self, assigned: Tensor, generator: torch.Generator) -> Samples:
        """Sample from (B, N) `assigned`: positive above 0, negative at 0, unavailable below.

        `generator` must live on the device of `assigned`.
        """
        num_candidates = assigned.shape[1]
        num_samples = min(self.num_samples, num_candidates)
        max_positives = min(int(self.num_samples * self.positive_fraction), num_candidates)
        priority = self.priority(assigned.shape, generator)
        unavailable = float("-inf")
        positive_priority, positive_indices = priority.masked_fill(assigned <= 0, unavailable).topk(
            max_positives
        )
        negative_priority, negative_indices = priority.masked_fill(assigned != 0, unavailable).topk(
            num_samples
        )
        is_positive = positive_priority > unavailable
        room = num_samples - is_positive.sum(dim=1, keepdim=True)
        ranks = torch.arange(num_samples, device=assigned.device)
        is_negative = (negative_priority > unavailable) & (ranks < room)
        indices = torch.cat([positive_indices, negative_indices], dim=1)
        kind = torch.cat([is_positive.byte() * 2, is_negative.byte()], dim=1)
        kind, order = kind.sort(dim=1, descending=True, stable=True)
        kept = kind[:, :num_samples]
        return Samples(
            indices=indices.gather(1, order[:, :num_samples]), positive=kept == 2, negative=kept == 1
        )
