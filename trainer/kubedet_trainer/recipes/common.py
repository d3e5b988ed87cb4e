"""The zoo's common settings, once: schedules, pixels, backbones (`zoo.md` 1.1, 2.1, 9.1)."""

from __future__ import annotations

from dataclasses import dataclass

from kubedet_trainer.config import DataConfig, NormalisationConfig, ResNetConfig, ScheduleConfig
from kubedet_trainer.config.backbones import Style

SCHEDULES = {
    "1x": ScheduleConfig(epochs=12, decay_epochs=(8, 11)),
    "2x": ScheduleConfig(epochs=24, decay_epochs=(16, 22)),
}

STAGE_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Depth of a ResNet to the blocks of its four stages."""


@dataclass(frozen=True, kw_only=True)
class BackboneStyle:
    """What follows from whose pretrained backbone a recipe starts with."""

    name_part: str
    """What a recipe's name carries between backbone and neck."""
    normalisation: NormalisationConfig
    """The pixels that the backbone was trained on."""
    weights: dict[int, str]
    """Depth to the URI of the weights."""


STYLES: dict[Style, BackboneStyle] = {
    "pytorch": BackboneStyle(
        name_part="",
        normalisation=NormalisationConfig(
            mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), to_rgb=True
        ),
        weights={
            50: "https://download.pytorch.org/models/resnet50-0676ba61.pth",
            101: "https://download.pytorch.org/models/resnet101-63fe2227.pth",
        },
    ),
    "caffe": BackboneStyle(
        name_part="_caffe",
        normalisation=NormalisationConfig(
            mean=(102.9801, 115.9465, 122.7717), std=(1.0, 1.0, 1.0), to_rgb=False
        ),
        weights={
            50: "https://download.openmmlab.com/pretrain/third_party/resnet50_caffe-788b5fa3.pth",
            101: "https://download.openmmlab.com/pretrain/third_party/resnet101_caffe-3ad79236.pth",
        },
    ),
}


def resnet(depth: int, style: Style) -> ResNetConfig:
    """A pretrained ResNet with its stem and first stage frozen."""
    return ResNetConfig(stage_blocks=STAGE_BLOCKS[depth], style=style)


def coco_data(style: Style) -> DataConfig:
    """The standard pipeline of all detectors with a feature pyramid."""
    return DataConfig(normalisation=STYLES[style].normalisation)


def recipe_name(method: str, *, depth: int, style: Style, schedule: str) -> str:
    """The zoo's name of a row, ``faster_rcnn_r50_caffe_fpn_1x``."""
    return f"{method}_r{depth}{STYLES[style].name_part}_fpn_{schedule}"
