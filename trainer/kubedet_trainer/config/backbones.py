"""Pixels to feature maps: backbones and the pyramid on them; the defaults are the zoo's (`zoo.md` 2, 3).

Each class holds the keyword arguments of the module of the same name in `kubedet_trainer.models`, which knows
nothing of this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from kubedet_trainer.config import rules

Style = Literal["pytorch", "caffe"]
Norm = Literal["bn", "gn"]
Deformable = Literal["none", "offsets", "modulated"]
ConvNorm = Literal["none", "gn"]
ExtraLevels = Literal["pool", "conv"]


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """A residual network of bottleneck blocks in four stages (He et al., 2015)."""

    stage_blocks: tuple[int, ...] = (3, 4, 6, 3)
    """Blocks of each of the four stages: (3, 4, 6, 3) is ResNet-50."""
    stem_channels: int = 64
    """Channels after the first convolution; stage i ends with ``4 * stem_channels * 2**i`` of them."""
    groups: int = 1
    """Groups of each 3x3 convolution; more than one makes it a ResNeXt (Xie et al., 2016)."""
    base_width: int = 64
    """Width of a group in the first stage: a block's inner width is ``planes * base_width / 64 * groups``."""
    style: Style = "pytorch"
    """Which convolution of a block carries the stride: pytorch the 3x3 one, caffe the first 1x1 one."""
    deformable: Deformable = "none"
    """Whether the 3x3 convolutions beyond the first stage are deformable, and modulated (`zoo.md` 2.5)."""
    norm: Norm = "bn"
    """Batch normalisation, or group normalisation for training from scratch."""
    norm_groups: int = 32
    """Groups of each group normalisation; unused with batch normalisation."""
    frozen_stages: int = 1
    """The stem and this many stages keep their pretrained weights; -1 trains everything."""
    norm_eval: bool = True
    """Keep the statistics of batch normalisation fixed in training, as small batches need."""

    def __post_init__(self) -> None:
        """Refuse what no residual network can be built from."""
        path = "model.backbone"
        rules.require(
            len(self.stage_blocks) == 4 and min(self.stage_blocks) > 0,
            path=f"{path}.stage_blocks",
            got=self.stage_blocks,
            rule="must be four numbers >= 1",
        )
        rules.require_positive(
            path,
            stem_channels=self.stem_channels,
            norm_groups=self.norm_groups,
            groups=self.groups,
            base_width=self.base_width,
        )
        rules.require_choice(f"{path}.style", self.style, get_args(Style))
        rules.require_choice(f"{path}.deformable", self.deformable, get_args(Deformable))
        rules.require_choice(f"{path}.norm", self.norm, get_args(Norm))
        rules.require(
            self.base_width * self.stem_channels >= 64,
            path=f"{path}.base_width",
            got=self.base_width,
            rule=f"must be >= 64 / stem_channels = {64 / self.stem_channels:g}",
        )
        width = self.stem_channels * self.base_width // 64 * self.groups
        rules.require(
            self.norm == "bn" or self.stem_channels % self.norm_groups == width % self.norm_groups == 0,
            path=f"{path}.norm_groups",
            got=self.norm_groups,
            rule=f"must divide stem_channels = {self.stem_channels} and the first stage's width {width}",
        )
        rules.require(
            -1 <= self.frozen_stages <= 4,
            path=f"{path}.frozen_stages",
            got=self.frozen_stages,
            rule="must be from -1 to 4",
        )


@dataclass(frozen=True, kw_only=True)
class VggConfig:
    """VGG-16 cut and extended as the single shot detector needs it (`zoo.md` 2.3)."""

    input_size: int = 300
    """Side of the square input, 300 or 512; 512 has one source map more."""
    stage_convs: tuple[int, int, int, int, int] = (2, 2, 3, 3, 3)
    """3x3 convolutions of each of the five groups."""
    stage_channels: tuple[int, int, int, int, int] = (64, 128, 256, 512, 512)
    """Channels of the five groups of convolutions."""
    fc_channels: int = 1024
    """Channels of the two convolutions that stand for VGG's fully connected layers."""
    extra_channels: int = 256
    """Channels of the source maps after the third, which itself has twice as many."""
    norm: ConvNorm = "none"
    """Group normalisation after each convolution but the extra ones, to learn from scratch; or none."""
    norm_groups: int = 32
    """Groups of each group normalisation; unused without."""
    first_source_scale: float = 20.0
    """Length that each pixel of the first source map has at first; narrower maps learn with a smaller one."""

    def __post_init__(self) -> None:
        """Refuse a size whose source maps nobody laid out."""
        rules.require(
            self.input_size in (300, 512),
            path="model.backbone.input_size",
            got=self.input_size,
            rule="must be 300 or 512",
        )
        rules.require_positive(
            "model.backbone",
            stage_convs=min(self.stage_convs),
            stage_channels=min(self.stage_channels),
            fc_channels=self.fc_channels,
            extra_channels=self.extra_channels,
            norm_groups=self.norm_groups,
            first_source_scale=self.first_source_scale,
        )
        rules.require_choice("model.backbone.norm", self.norm, get_args(ConvNorm))
        rules.require(
            self.norm == "none" or not any(width % self.norm_groups for width in self.stage_channels),
            path="model.backbone.norm_groups",
            got=self.norm_groups,
            rule=f"must divide all of stage_channels = {self.stage_channels}",
        )


@dataclass(frozen=True, kw_only=True)
class NeckConfig:
    """A feature pyramid on the stages of the backbone (Lin et al., 2016)."""

    channels: int = 256
    """Channels of every level."""
    start_stage: int = 0
    """The first stage that takes part: 0 starts the pyramid at stride 4, 1 at stride 8."""
    num_levels: int = 5
    """Levels given out; `extra_levels` says what those beyond the backbone's stages are made from."""
    extra_levels: ExtraLevels = "pool"
    """pool subsamples the coarsest level; conv convolves the backbone's last stage with stride 2."""
    norm: ConvNorm = "none"
    """Group normalisation after each convolution, or none."""
    norm_groups: int = 32
    """Groups of each group normalisation; unused without."""

    def __post_init__(self) -> None:
        """Refuse a pyramid without levels."""
        rules.require_positive("model.neck", channels=self.channels, norm_groups=self.norm_groups)
        rules.require_choice("model.neck.extra_levels", self.extra_levels, get_args(ExtraLevels))
        rules.require_choice("model.neck.norm", self.norm, get_args(ConvNorm))
        rules.require(
            0 <= self.start_stage <= 3,
            path="model.neck.start_stage",
            got=self.start_stage,
            rule="must be from 0 to 3",
        )
        rules.require(
            self.num_levels >= 4 - self.start_stage,
            path="model.neck.num_levels",
            got=self.num_levels,
            rule=f"must be >= {4 - self.start_stage}, the stages from start_stage on",
        )
