"""The zoo's common settings, once: schedules, pixels, backbones, names (`docs/zoo.md`, 1, 2 and 9.1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from kubedet_trainer.config import (
    DataConfig,
    DetectorOptions,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
)
from kubedet_trainer.config.recipe import EvaluationKind
from kubedet_trainer.models.options.backbones import ResNetOptions, Style
from kubedet_trainer.models.options.task import NormalisationOptions
from kubedet_trainer.recipes.published import PUBLISHED

Backbone = Literal["r50", "r101", "x101_32x4d", "x101_64x4d"]

PRETRAINED = "https://download.openmmlab.com/pretrain/third_party"
"""Where the zoo's own backbones are published."""

SCHEDULES = {
    "1x": ScheduleConfig(epochs=12, decay_epochs=(8, 11)),
    "2x": ScheduleConfig(epochs=24, decay_epochs=(16, 22)),
    "3x": ScheduleConfig(epochs=36, decay_epochs=(28, 34)),
    "20e": ScheduleConfig(epochs=20, decay_epochs=(16, 19)),
    "120e": ScheduleConfig(epochs=24, decay_epochs=(16, 22)),
    "240e": ScheduleConfig(epochs=24, decay_epochs=(16, 20)),
}
"""By the zoo's names; SSD's, the last two, count passes over the images, of which an epoch has 5 or 10."""

_RESNETS: dict[Backbone, ResNetOptions] = {
    "r50": ResNetOptions(),
    "r101": ResNetOptions(stage_blocks=(3, 4, 23, 3)),
    "x101_32x4d": ResNetOptions(stage_blocks=(3, 4, 23, 3), groups=32, base_width=4),
    "x101_64x4d": ResNetOptions(stage_blocks=(3, 4, 23, 3), groups=64, base_width=4),
}


@dataclass(frozen=True, kw_only=True)
class BackboneStyle:
    """What follows from whose pretrained backbone a recipe starts with."""

    name_part: str
    """What a recipe's name carries between backbone and neck."""
    normalisation: NormalisationOptions
    """The pixels that the backbone was trained on."""
    weights: dict[Backbone, str]
    """Backbone to the URI of its weights."""


STYLES: dict[Style, BackboneStyle] = {
    "pytorch": BackboneStyle(
        name_part="",
        normalisation=NormalisationOptions(
            mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), to_rgb=True
        ),
        weights={
            "r50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
            "r101": "https://download.pytorch.org/models/resnet101-63fe2227.pth",
            "x101_32x4d": f"{PRETRAINED}/resnext101_32x4d-a5af3160.pth",
            "x101_64x4d": f"{PRETRAINED}/resnext101_64x4d-ee2c6f71.pth",
        },
    ),
    "caffe": BackboneStyle(
        name_part="_caffe",
        normalisation=NormalisationOptions(
            mean=(102.9801, 115.9465, 122.7717), std=(1.0, 1.0, 1.0), to_rgb=False
        ),
        weights={
            "r50": f"{PRETRAINED}/resnet50_caffe-788b5fa3.pth",
            "r101": f"{PRETRAINED}/resnet101_caffe-3ad79236.pth",
        },
    ),
}


def resnet(backbone: Backbone, style: Style = "pytorch") -> ResNetOptions:
    """A pretrained ResNet or ResNeXt with its stem and first stage frozen."""
    return replace(_RESNETS[backbone], style=style)


def coco_data(style: Style = "pytorch") -> DataConfig:
    """The standard pipeline of all detectors with a feature pyramid."""
    return DataConfig(normalisation=STYLES[style].normalisation)


def recipe_name(method: str, *, backbone: Backbone, style: Style = "pytorch", schedule: str) -> str:
    """The zoo's name of a row, ``faster_rcnn_r50_caffe_fpn_1x``."""
    return f"{method}_{backbone}{STYLES[style].name_part}_fpn_{schedule}"


def zoo_recipe(
    name: str,
    model: DetectorOptions,
    *,
    data: DataConfig,
    schedule: str,
    pretrained: str,
    optimizer: OptimizerConfig | None = None,
    global_batch: int = 16,
    evaluation_kind: EvaluationKind = "bbox",
) -> Recipe:
    """A recipe with what the zoo published of it, if anything; the defaults are those of most rows."""
    return Recipe(
        name=name,
        model=model,
        data=data,
        schedule=SCHEDULES[schedule],
        optimizer=optimizer or OptimizerConfig(),
        global_batch=global_batch,
        pretrained=pretrained,
        evaluation_kind=evaluation_kind,
        published=PUBLISHED.get(name),
    )


def pyramid_recipe(
    method: str,
    model: DetectorOptions,
    *,
    backbone: Backbone,
    style: Style = "pytorch",
    schedule: str,
    data: DataConfig | None = None,
    optimizer: OptimizerConfig | None = None,
    evaluation_kind: EvaluationKind = "bbox",
) -> Recipe:
    """A row of a detector with a feature pyramid; what is not given follows from backbone and style."""
    return zoo_recipe(
        recipe_name(method, backbone=backbone, style=style, schedule=schedule),
        model,
        data=data or coco_data(style),
        schedule=schedule,
        pretrained=STYLES[style].weights[backbone],
        optimizer=optimizer,
        evaluation_kind=evaluation_kind,
    )
