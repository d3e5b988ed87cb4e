"""VGG-16 of the single shot detector: where its source maps come from, and what normalises the first."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from kubedet_trainer.models.backbones.vgg import L2Norm, Vgg
from kubedet_trainer.models.options.backbones import VggOptions


def _vgg(**options: Any) -> Vgg:
    return Vgg(VggOptions(**options))


@pytest.mark.parametrize(
    ("input_size", "channels", "sides"),
    [
        (300, [512, 1024, 512, 256, 256, 256], [38, 19, 10, 5, 3, 1]),
        (512, [512, 1024, 512, 256, 256, 256, 256], [64, 32, 16, 8, 4, 2, 1]),
    ],
)
def test_source_maps_have_the_published_sizes(input_size: int, channels: list[int], sides: list[int]) -> None:
    with torch.device("meta"):
        sources = _vgg(input_size=input_size)(torch.empty(1, 3, input_size, input_size))

    assert [tuple(source.shape[1:]) for source in sources] == [
        (width, side, side) for width, side in zip(channels, sides, strict=True)
    ]


def test_first_source_map_is_normalised_and_the_trunk_goes_on_without() -> None:
    with torch.device("meta"):
        vgg = _vgg()

    assert isinstance(vgg.features[22], nn.ReLU)
    assert vgg.first_source == 23
    assert isinstance(vgg.features[23], nn.MaxPool2d)
    assert vgg.features[31].dilation == (6, 6)
    assert len(vgg.features) == 35


def test_group_normalisation_follows_each_convolution_of_the_trunk() -> None:
    with torch.device("meta"):
        vgg = _vgg(stage_convs=(1, 1, 1, 1, 1), norm="gn")

    kinds = [type(layer) for layer in vgg.features[:4]]
    assert kinds == [nn.Conv2d, nn.GroupNorm, nn.MaxPool2d, nn.ReLU]
    assert sum(isinstance(layer, nn.GroupNorm) for layer in vgg.features) == 7


def test_normalisation_gives_every_pixel_the_length_of_its_weights() -> None:
    x = torch.randn(2, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    norm = L2Norm(8, initial_scale=20.0)

    torch.testing.assert_close(norm(x).norm(dim=1), torch.full((2, 3, 3), 20.0))
    torch.testing.assert_close(norm(x), norm(x * 7))


def test_pixel_without_any_activation_has_no_gradient_instead_of_an_infinite_one() -> None:
    x = torch.zeros(1, 4, 1, 1, requires_grad=True)

    L2Norm(4, initial_scale=20.0)(x).sum().backward()

    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_normalisation_is_exact_and_finite_in_lower_precision(dtype: torch.dtype) -> None:
    """In fp16 the square of 300 is infinite, and what keeps a division by zero away is zero."""
    norm = L2Norm(4, initial_scale=20.0)
    for value, expected in ((0.0, 0.0), (1.0, 10.0), (30000.0, 10.0)):
        x = torch.full((1, 4, 1, 1), value, dtype=dtype, requires_grad=True)
        with torch.autocast("cpu", dtype):
            found = norm(x.relu())  # as in the network, whose gradient at zero is zero
        found.sum().backward()
        torch.testing.assert_close(found, torch.full_like(found, expected), rtol=1e-4, atol=0)
        assert x.grad is not None
        assert torch.isfinite(x.grad).all()
