"""Feature pyramid network: every level sees what the coarser ones found (`zoo.md` 3)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class Fpn(nn.Module):
    """Lateral 1x1 convolutions, a top-down sum, 3x3 output convolutions, and subsampled extra levels."""

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        channels: int,
        num_levels: int,
        start_stage: int,
        extra_levels: str,
        norm: str,
        norm_groups: int,
    ) -> None:
        """A pyramid of `num_levels` on the backbone's stages from `start_stage` on, of `in_channels`."""
        super().__init__()
        self.start_stage = start_stage
        self.num_levels = num_levels
        stages = in_channels[start_stage:]
        self.lateral_convs = nn.ModuleList(_conv(width, channels, kernel_size=1) for width in stages)
        self.fpn_convs = nn.ModuleList(_conv(channels, channels, kernel_size=3) for _ in stages)

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """The levels, finest first, each (B, channels, h, w) at half the resolution of the one before."""
        used = stages[self.start_stage :]
        merged = [lateral(stage) for lateral, stage in zip(self.lateral_convs, used, strict=True)]
        for level in range(len(merged) - 1, 0, -1):
            finer = merged[level - 1]
            merged[level - 1] = finer + F.interpolate(merged[level], size=finer.shape[-2:], mode="nearest")
        levels = [conv(feature) for conv, feature in zip(self.fpn_convs, merged, strict=True)]
        while len(levels) < self.num_levels:
            levels.append(F.max_pool2d(levels[-1], kernel_size=1, stride=2))
        return levels


def _conv(in_channels: int, channels: int, *, kernel_size: int) -> nn.Module:
    conv = nn.Conv2d(in_channels, channels, kernel_size, padding=kernel_size // 2)
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return nn.Sequential(OrderedDict(conv=conv))
