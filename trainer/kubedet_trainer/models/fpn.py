"""Feature pyramid network: every level sees what the coarser ones found (`docs/zoo.md`, 3)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kubedet_trainer.models.compilable import compilable
from kubedet_trainer.models.options.backbones import FpnOptions


class Fpn(nn.Module):
    """Lateral 1x1 convolutions, a top-down sum, 3x3 output convolutions, and coarser extra levels.

    Extra levels are subsampled from the coarsest one (Lin et al., 2016), or convolved from the backbone's
    last stage and then from each other, with no activation between (RetinaNet as of 2019: `docs/zoo.md`, 3).
    """

    def __init__(self, options: FpnOptions, *, in_channels: Sequence[int]) -> None:
        """On a backbone whose stages have `in_channels`."""
        super().__init__()
        self.channels = channels = options.channels
        self.start_stage = options.start_stage
        self.num_levels = options.num_levels
        stages = in_channels[options.start_stage :]
        norm_groups = options.norm_groups if options.norm == "gn" else None
        conv = partial(_conv, channels=channels, norm_groups=norm_groups)
        self.lateral_convs = nn.ModuleList(conv(width, kernel_size=1) for width in stages)
        self.fpn_convs = nn.ModuleList(conv(channels, kernel_size=3) for _ in stages)
        if options.extra_levels == "conv":
            for level in range(options.num_levels - len(stages)):
                width = stages[-1] if level == 0 else channels
                self.fpn_convs.append(conv(width, kernel_size=3, stride=2))

    @compilable("sizes")
    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """The levels, finest first, each (B, channels, h, w) at half the resolution of the one before."""
        used = stages[self.start_stage :]
        merged = [lateral(stage) for lateral, stage in zip(self.lateral_convs, used, strict=True)]
        for level in range(len(merged) - 1, 0, -1):
            merged[level - 1] = _add_upsampled(merged[level - 1], merged[level])
        levels = [conv(feature) for conv, feature in zip(self.fpn_convs, merged, strict=False)]
        extra = used[-1]
        for conv in self.fpn_convs[len(used) :]:
            extra = conv(extra)
            levels.append(extra)
        while len(levels) < self.num_levels:
            levels.append(F.max_pool2d(levels[-1], kernel_size=1, stride=2))
        return levels


def _add_upsampled(finer: Tensor, coarser: Tensor) -> Tensor:
    """Add to each cell of (B, C, h, w) the one of (B, C, h / 2, w / 2), halves rounded up, that covers it."""
    if torch.compiler.is_compiling():  # one kernel, whose strides inductor can order
        height, width = coarser.shape[2:]
        blocks = coarser[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2)
        upsampled = blocks.reshape(*coarser.shape[:2], 2 * height, 2 * width)
        return finer + upsampled[..., : finer.shape[2], : finer.shape[3]]
    merged: Tensor = _AddUpsampled.apply(finer, coarser)
    return merged


class _AddUpsampled(torch.autograd.Function):
    """`_add_upsampled` as it runs without compilation.

    The upsampled map is never written. Automatic differentiation would add the gradients up in a slower way.
    """

    @staticmethod
    def forward(_ctx: Any, finer: Tensor, coarser: Tensor) -> Tensor:
        height, width = finer.shape[2:]
        if height % 2 or width % 2:
            finer = F.pad(finer, (0, width % 2, 0, height % 2))
        blocks = finer.view(*coarser.shape[:3], 2, coarser.shape[3], 2)
        merged: Tensor = blocks + coarser[:, :, :, None, :, None]
        return merged.flatten(4).flatten(2, 3)[..., :height, :width]

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, F.avg_pool2d(gradient, 2, ceil_mode=True, divisor_override=1)


def _conv(
    in_channels: int, *, channels: int, kernel_size: int, norm_groups: int | None, stride: int = 1
) -> nn.Module:
    """A convolution, and group normalisation in place of its bias if there are `norm_groups`.

    The weights keep the variance of features and gradients (Glorot and Bengio, 2010).
    """
    conv = nn.Conv2d(
        in_channels, channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=norm_groups is None
    )
    nn.init.xavier_uniform_(conv.weight)
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
    if norm_groups is None:
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    else:
        layers["gn"] = nn.GroupNorm(norm_groups, channels)
    return nn.Sequential(layers)
