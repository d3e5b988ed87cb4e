"""Losses of single samples, zero where a slot is empty; callers add them up and divide."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_NOT_COUNTED = -100
"""Label of an empty slot."""


def binary_cross_entropy(logits: Tensor, positive: Tensor, *, used: Tensor) -> Tensor:
    """Cross entropy of (...) `logits` against bool `positive`, where bool `used`: (...).

    Source: `docs/zoo.md`, 4.5.
    """
    target, weight = positive.to(logits.dtype), used.to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="none")


def cross_entropy(logits: Tensor, labels: Tensor, *, used: Tensor) -> Tensor:
    """Softmax cross entropy of (..., C) `logits` against int64 `labels` (...), where bool `used`: (...).

    Source: `docs/zoo.md`, 5.3 and 8.
    """
    counted = labels.masked_fill(~used, _NOT_COUNTED).flatten()
    losses = F.cross_entropy(logits.flatten(0, -2), counted, ignore_index=_NOT_COUNTED, reduction="none")
    return losses.view(labels.shape)


def focal(logits: Tensor, labels: Tensor, *, used: Tensor, gamma: float, alpha: float) -> Tensor:
    """Sum over C classes of the sigmoid focal loss, where bool `used`: (...).

    Column i of (..., C) `logits` is of label i + 1; int64 `labels` (...) are 0 for the background. `logits`
    may be any view of a map: nothing here copies it into another order.

    Source: Lin et al., 2017; `docs/zoo.md`, 7.
    """
    own_label = torch.arange(1, logits.shape[-1] + 1, device=logits.device)
    each = _FocalLoss.apply(logits, labels[..., None] == own_label, gamma, alpha)
    return torch.where(used, each.sum(dim=-1), 0)


def smooth_l1(deltas: Tensor, targets: Tensor, *, used: Tensor, beta: float) -> Tensor:
    """Sum over the last dimension of d^2 / (2 beta) below `beta` and d - beta / 2 above: (...).

    `targets` may be anything, infinite too, where (...) `used` is False.

    Source: Girshick, 2015; `docs/zoo.md`, 4.5.
    """
    reached = torch.where(used[..., None], targets, deltas.detach())
    return F.smooth_l1_loss(deltas, reached, reduction="none", beta=beta).sum(dim=-1)


class _FocalLoss(torch.autograd.Function):
    """``w * p ** gamma * softplus(x)`` of each logit, where `p` is the probability of the wrong answer.

    `x` is the logit, negated and weighted with alpha instead of 1 - alpha where bool `positive`. Of the many
    maps that the formula passes through only its two inputs are kept for the backward pass: a batch has
    hundreds of megabytes of logits, and automatic differentiation would keep six times as much.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, positive: Tensor, gamma: float, alpha: float) -> Tensor:
        ctx.save_for_backward(logits, positive)
        ctx.gamma, ctx.alpha = gamma, alpha
        x = torch.where(positive, -logits, logits)
        return F.softplus(x).mul_(x.sigmoid_().pow_(gamma)).mul_(torch.where(positive, alpha, 1 - alpha))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        logits, positive = ctx.saved_tensors
        x = torch.where(positive, -logits, logits)
        slope = F.softplus(x).mul_(ctx.gamma)
        wrong = x.sigmoid_()
        # d softplus = p and d p = p (1 - p), so the slope is p ** gamma * (gamma (1 - p) softplus + p).
        slope.mul_(1 - wrong).add_(wrong).mul_(wrong.pow_(ctx.gamma))
        slope.mul_(torch.where(positive, -ctx.alpha, 1 - ctx.alpha))
        return slope.mul_(gradient), None, None, None
