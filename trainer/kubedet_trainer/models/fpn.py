"""Feature pyramid network: every level sees what the coarser ones found (`zoo.md` 3)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F


class Fpn(nn.Module):
    """Lateral 1x1 convolutions, a top-down sum, 3x3 output convolutions, and coarser extra levels.

    Extra levels are subsampled from the coarsest one (Lin et al., 2016), or convolved from the backbone's
    last stage and then from each other, with no activation between (RetinaNet as of 2019).
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        channels: int,
        num_levels: int,
        start_stage: int,
        extra_levels: Literal["pool", "conv"],
        norm: Literal["none", "gn"],
        norm_groups: int,
    ) -> None:
        """A pyramid of `num_levels` on the backbone's stages from `start_stage` on, of `in_channels`."""
        super().__init__()
        self.start_stage = start_stage
        self.num_levels = num_levels
        stages = in_channels[start_stage:]
        conv = partial(_conv, channels=channels, norm_groups=norm_groups if norm == "gn" else None)
        self.lateral_convs = nn.ModuleList(conv(width, kernel_size=1) for width in stages)
        self.fpn_convs = nn.ModuleList(conv(channels, kernel_size=3) for _ in stages)
        if extra_levels == "conv":
            for level in range(num_levels - len(stages)):
                width = stages[-1] if level == 0 else channels
                self.fpn_convs.append(conv(width, kernel_size=3, stride=2))

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """The levels, finest first, each (B, channels, h, w) at half the resolution of the one before."""
        used = stages[self.start_stage :]
        merged = [lateral(stage) for lateral, stage in zip(self.lateral_convs, used, strict=True)]
        for level in range(len(merged) - 1, 0, -1):
            finer = merged[level - 1]
            merged[level - 1] = finer + F.interpolate(merged[level], size=finer.shape[-2:], mode="nearest")
        levels = [conv(feature) for conv, feature in zip(self.fpn_convs, merged, strict=False)]
        extra = used[-1]
        for conv in self.fpn_convs[len(used) :]:
            extra = conv(extra)
            levels.append(extra)
        while len(levels) < self.num_levels:
            levels.append(F.max_pool2d(levels[-1], kernel_size=1, stride=2))
        return levels


def _conv(
    in_channels: int, *, channels: int, kernel_size: int, norm_groups: int | None, stride: int = 1
) -> nn.Module:
    """A convolution, and group normalisation in place of its bias if there are `norm_groups`."""
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
