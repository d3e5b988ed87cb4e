"""Losses of single samples, zero where a slot is empty; callers add them up and divide."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def binary_cross_entropy(logits: Tensor, positive: Tensor, *, used: Tensor) -> Tensor:
    """Cross entropy of (...) `logits` against bool `positive`, where bool `used`: (...)."""
    losses = F.binary_cross_entropy_with_logits(logits, positive.to(logits.dtype), reduction="none")
    return torch.where(used, losses, 0)


def cross_entropy(logits: Tensor, labels: Tensor, *, used: Tensor) -> Tensor:
    """Softmax cross entropy of (..., C) `logits` against int64 `labels` (...), where bool `used`: (...)."""
    losses = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
    return torch.where(used, losses.view(labels.shape), 0)


def smooth_l1(deltas: Tensor, targets: Tensor, *, used: Tensor, beta: float) -> Tensor:
    """Sum over the last dimension of d^2 / (2 beta) below `beta` and d - beta / 2 above: (...).

    `targets` may be anything, infinite too, where (...) `used` is False.
    """
    finite_targets = torch.where(used[..., None], targets, 0)
    losses = F.smooth_l1_loss(deltas, finite_targets, reduction="none", beta=beta).sum(dim=-1)
    return torch.where(used, losses, 0)
