"""A fixed number of boxes to compute a loss on, positives first (`docs/zoo.md`, 4.3 and 5.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kubedet_trainer.models import host

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
        num_samples = min(self.num_samples, assigned.shape[1])
        max_positives = min(int(self.num_samples * self.positive_fraction), num_samples)
        priority = self.priority(assigned.shape, generator)[:, None]
        unavailable = float("-inf")
        kinds = host.constant((1, 0), assigned.device, dtype=assigned.dtype)[:, None]
        other_kind = assigned.clamp(max=1)[:, None] != kinds
        best, indices = priority.masked_fill(other_kind, unavailable).topk(num_samples)
        counts = (best > unavailable).sum(dim=2)  # of positives and negatives (B, 2)
        num_positives = counts[:, :1].clamp(max=max_positives)
        ranks = torch.arange(num_samples, device=assigned.device)
        positive = ranks < num_positives
        used = ranks < num_positives + counts[:, 1:]
        # The row of positives, cut after those that count, and after it that of negatives.
        source = torch.where(positive, ranks, ranks - num_positives + num_samples)
        return Samples(
            indices=indices.flatten(1).gather(1, source), positive=positive, negative=used & ~positive
        )
