"""Pixels to feature maps: backbones and the pyramid on them (`docs/zoo.md`, 2 and 3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from kubedet_trainer.contract.bounds import bounded

Style = Literal["pytorch", "caffe"]
Norm = Literal["bn", "gn"]
Deformable = Literal["none", "offsets", "modulated"]
ConvNorm = Literal["none", "gn"]
ExtraLevels = Literal["pool", "conv"]


@dataclass(frozen=True, kw_only=True)
class ResNetOptions:
    """A residual network of bottleneck blocks in four stages (He et al., 2015b)."""

    stage_blocks: tuple[int, int, int, int] = bounded(default=(3, 4, 6, 3), minimum=1)
    """Blocks of each of the four stages: (3, 4, 6, 3) is ResNet-50."""
    stem_channels: int = bounded(default=64, minimum=1)
    """Channels after the first convolution; stage i ends with ``4 * stem_channels * 2**i`` of them."""
    groups: int = bounded(default=1, minimum=1)
    """Groups of each 3x3 convolution; more than one makes it a ResNeXt (Xie et al., 2016)."""
    base_width: int = bounded(default=64, minimum=1)
    """Width of a group in the first stage: a block's inner width is ``planes * base_width / 64 * groups``."""
    style: Style = "pytorch"
    """Which convolution of a block carries the stride: pytorch the 3x3 one, caffe the first 1x1 one."""
    deformable: Deformable = "none"
    """Whether 3x3 convolutions beyond the first stage are deformable, and modulated (`docs/zoo.md`, 2.5)."""
    norm: Norm = "bn"
    """Batch normalisation, or group normalisation for training from scratch."""
    norm_groups: int = bounded(default=32, minimum=1)
    """Groups of each group normalisation; unused with batch normalisation."""
    frozen_stages: int = bounded(default=1, minimum=-1, maximum=4)
    """The stem and this many stages keep their pretrained weights; -1 trains everything."""
    norm_eval: bool = True
    """Keep the statistics of batch normalisation fixed in training, as small batches need."""

    def breaches(self) -> Iterator[tuple[str, str]]:
        """A block of no width, or one that the groups of its normalisation do not divide."""
        if self.base_width * self.stem_channels < 64:
            yield "base_width", f"must be >= 64 / stem_channels = {64 / self.stem_channels:g}"
        width = self.stem_channels * self.base_width // 64 * self.groups
        if self.norm == "gn" and (self.stem_channels % self.norm_groups or width % self.norm_groups):
            yield (
                "norm_groups",
                f"must divide stem_channels = {self.stem_channels} and the first stage's width {width}",
            )


@dataclass(frozen=True, kw_only=True)
class VggOptions:
    """VGG-16 cut and extended as the single shot detector needs it (`docs/zoo.md`, 2.3)."""

    input_size: Literal[300, 512] = 300
    """Side of the square input; 512 has one source map more."""
    stage_convs: tuple[int, int, int, int, int] = bounded(default=(2, 2, 3, 3, 3), minimum=1)
    """3x3 convolutions of each of the five groups."""
    stage_channels: tuple[int, int, int, int, int] = bounded(default=(64, 128, 256, 512, 512), minimum=1)
    """Channels of the five groups of convolutions."""
    fc_channels: int = bounded(default=1024, minimum=1)
    """Channels of the two convolutions that stand for VGG's fully connected layers."""
    extra_channels: int = bounded(default=256, minimum=1)
    """Channels of the source maps after the third, which itself has twice as many."""
    norm: ConvNorm = "none"
    """Group normalisation after each convolution but the extra ones, to learn from scratch; or none."""
    norm_groups: int = bounded(default=32, minimum=1)
    """Groups of each group normalisation; unused without."""
    first_source_scale: float = bounded(default=20.0, exclusive_minimum=0)
    """Length that each pixel of the first source map has at first; narrower maps learn with a smaller one."""

    def breaches(self) -> Iterator[tuple[str, str]]:
        """Channels that the groups of the normalisation do not divide."""
        if self.norm == "gn" and any(width % self.norm_groups for width in self.stage_channels):
            yield "norm_groups", f"must divide all of stage_channels = {self.stage_channels}"


@dataclass(frozen=True, kw_only=True)
class FpnOptions:
    """A feature pyramid on the stages of the backbone (Lin et al., 2016)."""

    channels: int = bounded(default=256, minimum=1)
    """Channels of every level."""
    start_stage: int = bounded(default=0, minimum=0, maximum=3)
    """The first stage that takes part: 0 starts the pyramid at stride 4, 1 at stride 8."""
    num_levels: int = 5
    """Levels given out; `extra_levels` says what those beyond the backbone's stages are made from."""
    extra_levels: ExtraLevels = "pool"
    """pool subsamples the coarsest level; conv convolves the backbone's last stage with stride 2."""
    norm: ConvNorm = "none"
    """Group normalisation after each convolution, or none."""
    norm_groups: int = bounded(default=32, minimum=1)
    """Groups of each group normalisation; unused without."""

    def breaches(self) -> Iterator[tuple[str, str]]:
        """Fewer levels than stages that take part."""
        stages = 4 - self.start_stage
        if self.num_levels < stages:
            yield "num_levels", f"must be >= {stages}, the stages from start_stage on"
