"""Faster R-CNN of the zoo."""

from __future__ import annotations

from kubedet_trainer.config import FasterRcnnConfig, Recipe
from kubedet_trainer.config.backbones import Style
from kubedet_trainer.recipes import common
from kubedet_trainer.recipes.published import PUBLISHED


def faster_rcnn(*, depth: int, style: Style, schedule: str) -> Recipe:
    """Faster R-CNN on a ResNet of `depth` layers, trained for one of `common.SCHEDULES`."""
    name = common.recipe_name("faster_rcnn", depth=depth, style=style, schedule=schedule)
    return Recipe(
        name=name,
        model=FasterRcnnConfig(backbone=common.resnet(depth, style)),
        data=common.coco_data(style),
        schedule=common.SCHEDULES[schedule],
        pretrained=common.STYLES[style].weights[depth],
        reference=PUBLISHED[name].as_results(),
    )
