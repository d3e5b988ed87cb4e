"""The pyramid's extra levels and its normalised convolutions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from kubedet_trainer.models.fpn import Fpn
from kubedet_trainer.models.options.backbones import FpnOptions

CHANNELS = (3, 4, 5, 6)


def _pyramid(**options: Any) -> Fpn:
    torch.manual_seed(0)
    defaults = FpnOptions(channels=8, start_stage=1, extra_levels="conv", norm_groups=2)
    return Fpn(replace(defaults, **options), in_channels=CHANNELS)


def _stages() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(1, width, 40 >> stage, 56 >> stage, generator=generator)
        for stage, width in enumerate(CHANNELS)
    ]


def test_convolved_levels_come_from_the_raw_last_stage_without_activation() -> None:
    neck, stages = _pyramid(), _stages()

    levels = neck(stages)

    first, second = (neck.get_submodule(f"fpn_convs.{index}.conv") for index in (3, 4))
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Conv2d)
    sixth = F.conv2d(stages[-1], first.weight, first.bias, stride=2, padding=1)
    torch.testing.assert_close(levels[3], sixth)
    torch.testing.assert_close(levels[4], F.conv2d(sixth, second.weight, second.bias, stride=2, padding=1))
    assert sixth.min() < 0, "an activation would show"


def test_pooled_levels_are_every_second_cell_of_the_coarsest() -> None:
    levels = _pyramid(start_stage=0, extra_levels="pool")(_stages())

    torch.testing.assert_close(levels[4], levels[3][:, :, ::2, ::2])


def test_group_normalisation_replaces_the_bias_of_every_convolution() -> None:
    neck = _pyramid(norm="gn")

    assert {name.split(".", 2)[2] for name in neck.state_dict()} == {"conv.weight", "gn.weight", "gn.bias"}
    finest = neck(_stages())[0].view(2, 4, -1)
    torch.testing.assert_close(finest.mean(dim=(1, 2)), torch.zeros(2), atol=1e-5, rtol=0)


def test_maps_keep_the_lower_precision_on_their_way_down() -> None:
    neck = _pyramid(start_stage=0, extra_levels="pool")
    seen: list[torch.dtype] = []
    for conv in neck.fpn_convs:
        conv.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        neck(_stages())
    assert set(seen) == {torch.bfloat16}


def test_levels_of_odd_sizes_are_added_to_the_cells_that_lie_under_theirs() -> None:
    neck = _pyramid(start_stage=0, extra_levels="pool")
    sizes = [(25, 42), (13, 21), (7, 11), (4, 6)]
    stages = [torch.randn(1, width, *size) for width, size in zip(CHANNELS, sizes, strict=True)]
    seen: list[torch.Tensor] = []
    for conv in neck.fpn_convs:
        conv.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))

    neck(stages)

    merged = None
    for lateral, stage, found in list(zip(neck.lateral_convs, stages, seen, strict=True))[::-1]:
        own = lateral(stage)
        merged = own if merged is None else own + F.interpolate(merged, size=own.shape[2:], mode="nearest")
        assert torch.equal(found, merged)
    assert merged is not None
    weights = list(neck.lateral_convs.parameters())
    gradients, expected = (torch.autograd.grad(finest.sin().sum(), weights) for finest in (seen[0], merged))
    torch.testing.assert_close(gradients, expected)
