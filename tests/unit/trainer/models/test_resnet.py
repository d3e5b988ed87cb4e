"""Backbones: inner width, groups and deformable convolutions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kubedet_trainer.config.fields import check
from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.models.backbones.resnet import Bottleneck, ResNet
from kubedet_trainer.models.options.backbones import ResNetOptions

SMALL = {"stage_blocks": (1, 1, 1, 1), "stem_channels": 8, "frozen_stages": -1}


def _backbone(**options: Any) -> ResNet:
    torch.manual_seed(0)
    return ResNet(ResNetOptions(**{**SMALL, **options})).eval()


def _first_block(backbone: ResNet, stage: str) -> Bottleneck:
    block = backbone.get_submodule(f"{stage}.0")
    assert isinstance(block, Bottleneck)
    return block


def _inputs_and_outputs_of_conv2(
    backbone: ResNet, *, stage: str
) -> tuple[Bottleneck, torch.Tensor, torch.Tensor]:
    """What enters and leaves the 3x3 convolution of a stage's first block.

    While statistics are learnt, since fixed ones are folded into the convolutions.
    """
    backbone.norm_eval = False
    backbone.train()
    block = _first_block(backbone, stage)
    seen: dict[str, torch.Tensor] = {}
    block.get_submodule("bn1").register_forward_hook(lambda _module, _inputs, out: seen.update(entering=out))
    block.get_submodule("bn2").register_forward_pre_hook(
        lambda _module, inputs: seen.update(leaving=inputs[0].clone())
    )
    with torch.no_grad():
        backbone(torch.randn(1, 3, 64, 96))
    return block, F.relu(seen["entering"]), seen["leaving"]


@pytest.mark.parametrize(("groups", "base_width", "widths"), [(32, 4, [128, 256]), (64, 4, [256, 512])])
def test_width_of_resnext_follows_from_its_groups(groups: int, base_width: int, widths: list[int]) -> None:
    with torch.device("meta"):
        backbone = _backbone(stem_channels=64, groups=groups, base_width=base_width)

    blocks = [_first_block(backbone, stage) for stage in ("layer1", "layer2")]
    assert [block.conv2.out_channels for block in blocks] == widths
    assert [block.conv2.groups for block in blocks] == [groups] * 2
    assert [block.conv3.out_channels for block in blocks] == [256, 512]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"base_width": 4}, "base_width"),
        ({"base_width": 12, "groups": 5, "norm": "gn", "norm_groups": 4}, "norm_groups"),
    ],
)
def test_width_that_cannot_be_built_is_refused(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput, match=f"model.backbone.{field}"):
        check(ResNetOptions(**{**SMALL, **options}), path="model.backbone")


@pytest.mark.parametrize(("deformable", "share"), [("offsets", 1.0), ("modulated", 0.5)])
def test_deformable_convolution_starts_as_a_plain_one_beyond_the_first_stage(
    deformable: str, share: float
) -> None:
    backbone = _backbone(deformable=deformable, groups=2)

    block, entering, leaving = _inputs_and_outputs_of_conv2(backbone, stage="layer2")

    plain = F.conv2d(entering, block.conv2.weight, stride=2, padding=1, groups=2)
    torch.testing.assert_close(leaving, plain * share)
    assert _first_block(backbone, "layer1").conv2_offset is None


def test_offsets_are_pairs_of_dy_and_dx_a_tap_and_modulation_comes_last() -> None:
    backbone = _backbone(deformable="modulated")
    block = _first_block(backbone, "layer2")
    with torch.no_grad():
        block.conv2.weight.zero_()[:, :, 0, 1] = 1  # the second tap alone
        offset_bias = block.get_parameter("conv2_offset.bias")
        offset_bias[2:4] = torch.tensor([2.0, 1.0])
        offset_bias[18 + 1] = 30

    _, entering, leaving = _inputs_and_outputs_of_conv2(backbone, stage="layer2")

    shifted = F.pad(entering.sum(dim=1), (0, 1, 0, 1))[:, 1::2, 1::2]
    torch.testing.assert_close(leaving[0, 0], shifted[0][: leaving.shape[2], : leaving.shape[3]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("deformable", ["offsets", "modulated"])
def test_deformable_convolution_computes_in_float32_under_autocast(
    deformable: str, dtype: torch.dtype
) -> None:
    backbone = _backbone(deformable=deformable)
    block = _first_block(backbone, "layer2")
    images = torch.randn(1, block.conv2.in_channels, 16, 24)
    with torch.autocast("cpu", dtype):
        rounded = images.to(dtype)
        out = block._convolve_deformably(rounded, block.conv2.weight, None)
        offsets = block.get_submodule("conv2_offset")(rounded)
    assert out.dtype == dtype
    block.conv2_offset = _Says(offsets.float())
    precise = block._convolve_deformably(rounded.float(), block.conv2.weight, None)
    torch.testing.assert_close(out, precise.to(dtype), rtol=0, atol=0)


class _Says(nn.Conv2d):
    """A layer with one answer to everything."""

    def __init__(self, answer: torch.Tensor) -> None:
        super().__init__(1, 1, 1)
        self.answer = answer

    def forward(self, _images: torch.Tensor) -> torch.Tensor:
        return self.answer
