"""The 3x3 convolutions that heads of regions put on pooled features (`docs/zoo.md`, 2.4 and 5.5)."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def build_region_convs(
    *, num_convs: int, in_channels: int, channels: int, norm_groups: int | None
) -> nn.ModuleList:
    """`num_convs` convolutions with ReLU, each normalised in `norm_groups` in place of its bias, or neither.

    They keep the size of (N, C, h, w) features; the first has `in_channels`, all give `channels`.
    """
    return nn.ModuleList(
        _region_conv(in_channels if index == 0 else channels, channels, norm_groups)
        for index in range(num_convs)
    )


def _region_conv(in_channels: int, channels: int, norm_groups: int | None) -> nn.Module:
    conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=norm_groups is None)
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
    if norm_groups is not None:
        layers["gn"] = nn.GroupNorm(norm_groups, channels)
    layers["relu"] = nn.ReLU(inplace=True)
    init_for_relu(conv)
    return nn.Sequential(layers)


def init_for_relu(conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Weights that keep the variance of gradients through ReLU (He et al., 2015a), and no bias."""
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
