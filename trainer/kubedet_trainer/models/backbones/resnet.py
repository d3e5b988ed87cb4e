"""Residual networks of bottleneck blocks, with torchvision's parameter names (`docs/zoo.md`, 2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from kubedet_trainer.models.backbones import folding
from kubedet_trainer.models.backbones.folding import Folded, Pair
from kubedet_trainer.models.compilable import compilable
from kubedet_trainer.models.options.backbones import Deformable, ResNetOptions

EXPANSION = 4
"""A block gives out this many times its planes."""

_UNIT_WIDTH = 64
"""The base width at which the one group of a plain residual network is as wide as the planes."""

_TAPS = 9
"""Of a 3x3 convolution: each has an offset (dy, dx), and a weight where modulated (`docs/zoo.md`, 2.5)."""


@dataclass(frozen=True, kw_only=True)
class NormLayer:
    """A normalisation: how its modules are named in state dicts, and how one is made for some channels."""

    prefix: str
    build: Callable[[int], nn.Module]


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution with a shortcut (He et al., 2015b).

    The 3x3 one may have groups (Xie et al., 2016) and look where a sibling of the same geometry says
    (Dai et al., 2017), with weights that it gives too when modulated (Zhu et al., 2018).
    """

    def __init__(
        self, options: ResNetOptions, *, in_channels: int, planes: int, stride: int, deformable: Deformable
    ) -> None:
        super().__init__()
        groups = options.groups
        width = planes * options.base_width // _UNIT_WIDTH * groups
        out_channels = planes * EXPANSION
        first_stride, second_stride = (1, stride) if options.style == "pytorch" else (stride, 1)
        norm = _norm_layer(options)
        self.conv1 = nn.Conv2d(in_channels, width, 1, stride=first_stride, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, stride=second_stride, padding=1, groups=groups, bias=False)
        self.conv2_offset: nn.Conv2d | None = None
        if deformable != "none":
            channels = (3 if deformable == "modulated" else 2) * _TAPS
            self.conv2_offset = nn.Conv2d(width, channels, 3, stride=second_stride, padding=1)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.norm_names = [f"{norm.prefix}{i}" for i in (1, 2, 3)]
        for name, channels in zip(self.norm_names, (width, width, out_channels), strict=True):
            self.add_module(name, norm.build(channels))
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, norm.build(out_channels))

    def pairs(self) -> list[Pair]:
        """The three convolutions with their normalisations, then that of the shortcut if it has any."""
        norms = [self.get_submodule(name) for name in self.norm_names]
        found = list(zip((self.conv1, self.conv2, self.conv3), norms, strict=True))
        if self.downsample is not None:
            conv, norm = self.downsample.children()
            assert isinstance(conv, nn.Conv2d)
            found.append((conv, norm))
        return found

    def forward(self, x: Tensor, folded: Folded) -> Tensor:
        """(B, in_channels, h, w) to (B, 4 * planes, h / stride, w / stride); `folded` as of `pairs`."""
        first, second, third, *shortcut = self.pairs()
        out = F.relu(folding.convolve(x, *first, folded), inplace=True)
        if self.conv2_offset is None:
            out = folding.convolve(out, *second, folded)
        elif self.conv2 in folded:
            out = self._convolve_deformably(out, *folded[self.conv2])
        else:
            out = second[1](self._convolve_deformably(out, self.conv2.weight, None))
        out = folding.convolve(F.relu(out, inplace=True), *third, folded)
        out += folding.convolve(x, *shortcut[0], folded) if shortcut else x
        return F.relu(out, inplace=True)

    def _convolve_deformably(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The 3x3 convolution, at places shifted as its sibling says."""
        assert self.conv2_offset is not None
        predicted = self.conv2_offset(x)
        modulation = predicted[:, 2 * _TAPS :]
        # torchvision computes it in float32 under autocast, but knows no autocast on CPUs.
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = deform_conv2d(
                x.float(),
                predicted[:, : 2 * _TAPS].float(),
                weight.float(),
                bias=None if bias is None else bias.float(),
                stride=self.conv2.stride,
                padding=self.conv2.padding,
                mask=modulation.float().sigmoid() if modulation.shape[1] else None,
            )
        return out.to(x.dtype)


class ResNet(nn.Module):
    """A stem and four stages, at strides 4, 8, 16 and 32."""

    def __init__(self, options: ResNetOptions) -> None:
        super().__init__()
        layer = _norm_layer(options)
        self.norm_eval = options.norm_eval
        self.stem_norm = f"{layer.prefix}1"
        self.conv1 = nn.Conv2d(3, options.stem_channels, 7, stride=2, padding=3, bias=False)
        self.add_module(self.stem_norm, layer.build(options.stem_channels))
        self.stages: list[str] = []
        self.out_channels: list[int] = []
        channels = options.stem_channels
        for stage, num_blocks in enumerate(options.stage_blocks):
            planes = options.stem_channels * 2**stage
            blocks = []
            for block in range(num_blocks):
                blocks.append(
                    Bottleneck(
                        options,
                        in_channels=channels,
                        planes=planes,
                        stride=2 if stage > 0 and block == 0 else 1,
                        deformable=options.deformable if stage > 0 else "none",
                    )
                )
                channels = planes * EXPANSION
            self.stages.append(f"layer{stage + 1}")
            self.add_module(self.stages[-1], nn.Sequential(*blocks))
            self.out_channels.append(channels)
        self._initialise()
        self._freeze(options.frozen_stages)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to the outputs of the four stages, finest first."""
        x = self._stem(pixels)
        outputs = []
        for name in self.stages:
            x = self._stage(x, self.get_submodule(name))
            outputs.append(x)
        return outputs

    @compilable("sizes")
    def _stem(self, pixels: Tensor) -> Tensor:
        stem = self.conv1, self.get_submodule(self.stem_norm)
        x = folding.convolve(pixels, *stem, folding.fold([stem]))
        # Maximum and ReLU commute, and after the pooling there is a quarter of the cells to go through.
        return F.relu(F.max_pool2d(x, kernel_size=3, stride=2, padding=1), inplace=True)

    @compilable("sizes")
    def _stage(self, x: Tensor, stage: nn.Module) -> Tensor:
        blocks = [block for block in stage.children() if isinstance(block, Bottleneck)]
        folded = folding.fold([pair for block in blocks for pair in block.pairs()])
        for block in blocks:
            x = block(x, folded)
        return x

    def train(self, mode: bool = True) -> Self:
        """Like `nn.Module.train`, but leaves batch normalisation in evaluation under `norm_eval`."""
        super().train(mode)
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def _initialise(self) -> None:
        """As torchvision; deformable convolutions begin as plain ones, at half the weight if modulated.

        The zoo began with random offsets on pretrained weights (`docs/zoo.md`, 2.5); without any, and with
        files that lack the offsets, zeros are the safe choice. A detector's own checkpoint decides anyway.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, Bottleneck) and module.conv2_offset is not None:
                nn.init.zeros_(module.conv2_offset.weight)
                nn.init.zeros_(module.conv2_offset.bias)  # type: ignore[arg-type]

    def _freeze(self, frozen_stages: int) -> None:
        frozen = [self.conv1, self.get_submodule(self.stem_norm)] if frozen_stages >= 0 else []
        frozen += [self.get_submodule(name) for name in self.stages[: max(frozen_stages, 0)]]
        for module in frozen:
            module.requires_grad_(False)


def _norm_layer(options: ResNetOptions) -> NormLayer:
    layers = {
        "bn": NormLayer(prefix="bn", build=nn.BatchNorm2d),
        "gn": NormLayer(prefix="gn", build=partial(nn.GroupNorm, options.norm_groups)),
    }
    return layers[options.norm]
