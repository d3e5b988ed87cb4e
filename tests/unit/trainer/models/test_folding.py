"""Folding fixed batch normalisation changes what is computed on the way, not the results or gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kubedet_trainer.models.backbones import folding
from kubedet_trainer.models.backbones.folding import Pair


def _pair(in_channels: int, channels: int, *, kernel_size: int, groups: int = 1) -> Pair:
    conv = nn.Conv2d(in_channels, channels, kernel_size, stride=2, padding=1, groups=groups, bias=False)
    norm = nn.BatchNorm2d(channels, eps=0.1)
    for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        assert values is not None
        nn.init.uniform_(values, 0.5, 2)
    return conv.double(), norm.double().eval()


def _pairs() -> list[Pair]:
    """Filters of two widths, some of them grouped."""
    torch.manual_seed(0)
    sizes = [(4, 6, 1, 1), (6, 4, 3, 2), (4, 6, 1, 1)]
    return [_pair(inputs, outputs, kernel_size=kernel, groups=n) for inputs, outputs, kernel, n in sizes]


def _outputs_and_gradients(pairs: list[Pair], folded: folding.Folded) -> list[Tensor]:
    x = torch.rand(2, 4, 17, 15, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    for conv, norm in pairs:
        x = folding.convolve(x, conv, norm, folded)
    x.sin().sum().backward()  # type: ignore[no-untyped-call]
    parameters = [parameter for pair in pairs for part in pair for parameter in part.parameters()]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    assert len(gradients) == len(parameters)
    return [x, *gradients]


def test_outputs_and_all_gradients_are_those_of_convolution_and_normalisation() -> None:
    pairs, same = _pairs(), _pairs()
    folded = folding.fold(pairs)
    assert len(folded) == len(pairs)

    torch.testing.assert_close(
        _outputs_and_gradients(pairs, folded), _outputs_and_gradients(same, {}), rtol=1e-12, atol=1e-12
    )


def test_what_is_frozen_needs_no_gradient() -> None:
    pairs = _pairs()
    for part in pairs[0]:
        part.requires_grad_(False)

    assert not any(tensor.requires_grad for tensor in folding.fold(pairs[:1])[pairs[0][0]])


def test_normalisation_that_learns_its_statistics_or_has_none_is_not_folded() -> None:
    pairs = _pairs()
    pairs[1][1].train()
    assert folding.fold(pairs) == {}
    conv = nn.Conv2d(3, 4, 1, bias=False)
    assert folding.fold([(conv, nn.GroupNorm(2, 4))]) == {}
