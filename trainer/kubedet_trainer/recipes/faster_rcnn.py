"""Faster R-CNN of the zoo (`zoo.md` 5)."""

from __future__ import annotations

from kubedet_trainer.config import FasterRcnnConfig, Recipe
from kubedet_trainer.config.backbones import Style
from kubedet_trainer.recipes import common


def faster_rcnn(backbone: common.Backbone, style: Style, schedule: str) -> Recipe:
    """Faster R-CNN, trained for one of `common.SCHEDULES`."""
    return common.pyramid_recipe(
        "faster_rcnn",
        FasterRcnnConfig(backbone=common.resnet(backbone, style)),
        backbone=backbone,
        style=style,
        schedule=schedule,
    )
