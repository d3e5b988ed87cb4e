"""VGG-16 as the single shot detector has it: dilated, extended, with source maps.

The indices of `features` and `extra` are those of the published weights.

Source: Simonyan and Zisserman, 2014; Liu et al., 2015; `docs/zoo.md`, 2.3.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kubedet_trainer.models.compilable import compilable
from kubedet_trainer.models.options.backbones import VggOptions

_EXTRA_LAYERS: dict[int, tuple[tuple[int, int, int], ...]] = {
    300: ((3, 2, 1), (3, 2, 1), (3, 1, 0), (3, 1, 0)),
    512: ((3, 2, 1), (3, 2, 1), (3, 2, 1), (3, 2, 1), (4, 1, 1)),
}
"""Side of the input to kernel, stride and padding of the convolution that makes each further source map."""


class Vgg(nn.Module):
    """Source maps after the fourth group, after the converted fully connected layers, and beyond."""

    def __init__(self, options: VggOptions) -> None:
        super().__init__()
        fc_channels, stage_channels = options.fc_channels, options.stage_channels

        def convolve(in_channels: int, channels: int, conv: Callable[..., nn.Conv2d]) -> list[nn.Module]:
            normalised = [nn.GroupNorm(options.norm_groups, channels)] if options.norm == "gn" else []
            return [conv(in_channels, channels), *normalised, nn.ReLU(inplace=True)]

        plain = partial(nn.Conv2d, kernel_size=3, padding=1)
        dilated = partial(nn.Conv2d, kernel_size=3, padding=6, dilation=6)
        layers: list[nn.Module] = []
        channels = 3
        for group, (width, num_convs) in enumerate(zip(stage_channels, options.stage_convs, strict=True)):
            for _ in range(num_convs):
                layers += convolve(channels, width, plain)
                channels = width
            pooling = nn.MaxPool2d(kernel_size=2, stride=2, ceil_mode=True)
            if group < 3:
                layers.insert(-1, pooling)  # ReLU commutes with it, and then has a quarter of the cells
            elif group == 3:
                self.first_source = len(layers)
                layers.append(pooling)
        layers.append(nn.MaxPool2d(kernel_size=3, stride=1, padding=1))
        layers += convolve(channels, fc_channels, dilated)
        layers += convolve(fc_channels, fc_channels, partial(nn.Conv2d, kernel_size=1))
        self.features = nn.Sequential(*layers)
        self.l2_norm = L2Norm(stage_channels[3], initial_scale=options.first_source_scale)
        self.out_channels = [stage_channels[3], fc_channels]
        self.extra = nn.ModuleList()
        for index, (kernel, stride, padding) in enumerate(_EXTRA_LAYERS[options.input_size]):
            width = options.extra_channels * (2 if index == 0 else 1)
            self.extra.append(nn.Conv2d(self.out_channels[-1], width // 2, 1))
            self.extra.append(nn.Conv2d(width // 2, width, kernel, stride=stride, padding=padding))
            self.out_channels.append(width)
        self._initialise()

    @compilable("sizes")
    def forward(self, pixels: Tensor) -> list[Tensor]:
        """(B, 3, input_size, input_size) to the source maps, finest first; the first one is normalised."""
        first = self.features[: self.first_source](pixels)
        x = self.features[self.first_source :](first)
        sources = [self.l2_norm(first), x]
        for index, conv in enumerate(self.extra):
            x = F.relu(conv(x), inplace=True)
            if index % 2 == 1:
                sources.append(x)
        return sources

    def _initialise(self) -> None:
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        for module in self.extra:
            nn.init.xavier_uniform_(module.weight)  # type: ignore[arg-type]
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]


class L2Norm(nn.Module):
    """Every pixel's channels scaled to unit length, then each channel by a weight (Liu et al., 2015)."""

    def __init__(self, channels: int, *, initial_scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), initial_scale))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) to the same shape; pixels that are all zero stay so, with a zero gradient."""
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32)
        normalised: Tensor = x / (length + 1e-10)
        return normalised * self.weight[:, None, None]
