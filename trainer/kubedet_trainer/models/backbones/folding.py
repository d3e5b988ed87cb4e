"""Fixed batch normalisation as part of the convolution before it.

With fixed statistics ``norm(conv(x))`` is a convolution: of the weight times ``scale = gamma / sqrt(variance
+ eps)``, with the bias ``beta - mean * scale`` (`docs/zoo.md`, 2.1). The map between the two is then never
written, read or kept for the backward pass, and gamma and beta learn as before.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pair = tuple[nn.Conv2d, nn.Module]
"""A convolution without bias, and the normalisation after it."""

Folded = dict[nn.Conv2d, tuple[Tensor, Tensor]]
"""Weight and bias of each convolution that has its normalisation folded in."""


def fold(pairs: Sequence[Pair]) -> Folded:
    """Fold the normalisations of `pairs`, or none of them where one is not fixed.

    All at once, since there are many and each is small. Gradients reach the parameters when all weights have
    theirs; so a call should get a part of a network, whose gradients can travel while others are computed.
    """
    norms = [norm for _, norm in pairs if isinstance(norm, nn.BatchNorm2d) and not norm.training]
    if len(norms) < len(pairs):
        return {}
    kinds = (
        [conv.weight for conv, _ in pairs],
        [norm.weight for norm in norms],
        [norm.bias for norm in norms],
        [norm.running_mean for norm in norms],
        [norm.running_var for norm in norms],
    )
    folded = _Fold.apply(*itertools.chain(*kinds), [norm.eps for norm in norms])
    weights, biases = _by_kind(folded, kinds=2)
    return {conv: (weight, bias) for (conv, _), weight, bias in zip(pairs, weights, biases, strict=True)}


def convolve(x: Tensor, conv: nn.Conv2d, norm: nn.Module, folded: Folded) -> Tensor:
    """``norm(conv(x))`` for (B, C, h, w) `x`."""
    if conv not in folded:
        normalised: Tensor = norm(conv(x))
        return normalised
    weight, bias = folded[conv]
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


class _Fold(torch.autograd.Function):
    """Of N weights, gammas, betas, means, variances, and a list of epsilons: N weights, then N biases.

    One call for all N of a kind. Automatic differentiation would compute each tensor by itself.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        *tensors, eps = arguments
        weights, gammas, betas, means, variances = _by_kind(tensors, kinds=5)
        inverse = torch._foreach_rsqrt(torch._foreach_add(variances, eps))
        scales = torch._foreach_mul(gammas, inverse)
        ctx.save_for_backward(*weights, *means, *inverse, *scales)
        biases = torch._foreach_addcmul(betas, means, scales, value=-1)
        return *torch._foreach_mul(weights, _as_filters(scales)), *biases

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weights, means, inverse, scales = _by_kind(ctx.saved_tensors, kinds=4)
        of_weights, of_biases = _by_kind(gradients, kinds=2)
        of_scales = torch._foreach_addcmul(
            _filter_sums(torch._foreach_mul(of_weights, weights)), means, of_biases, value=-1
        )
        of_gammas = torch._foreach_mul(of_scales, inverse)
        of_convs = torch._foreach_mul(of_weights, _as_filters(scales))
        return *of_convs, *of_gammas, *of_biases, *[None] * (2 * len(weights) + 1)


def _by_kind(tensors: Sequence[Tensor], *, kinds: int) -> list[list[Tensor]]:
    """The tensors of each kind, which come one kind after the other."""
    count = len(tensors) // kinds
    return [list(tensors[kind * count : (kind + 1) * count]) for kind in range(kinds)]


def _as_filters(scales: Sequence[Tensor]) -> list[Tensor]:
    """(O,) `scales` in the shape of (O, C, h, w) weights."""
    return [scale.view(-1, 1, 1, 1) for scale in scales]


def _filter_sums(weights: Sequence[Tensor]) -> list[Tensor]:
    """The sum of each filter of (O, C, h, w) `weights`: (O,). Weights of one width are summed together."""
    by_width: defaultdict[int, list[int]] = defaultdict(list)
    for index, weight in enumerate(weights):
        by_width[weight[0].numel()].append(index)
    sums: dict[int, Tensor] = {}
    for indices in by_width.values():
        filters = [weights[index].flatten(1) for index in indices]
        parts = torch.split(torch.cat(filters).sum(dim=1), [len(weight) for weight in filters])
        sums |= dict(zip(indices, parts, strict=True))
    return [sums[index] for index in range(len(weights))]
