"""RetinaNet of the zoo (`zoo.md` 7)."""

from __future__ import annotations

from kubedet_trainer.config import OptimizerConfig, Recipe, RetinaNetConfig
from kubedet_trainer.config.backbones import Style
from kubedet_trainer.recipes import common


def retinanet(backbone: common.Backbone, style: Style, schedule: str) -> Recipe:
    """RetinaNet, trained for one of `common.SCHEDULES` at half the others' learning rate."""
    return common.pyramid_recipe(
        "retinanet",
        RetinaNetConfig(backbone=common.resnet(backbone, style)),
        backbone=backbone,
        style=style,
        schedule=schedule,
        optimizer=OptimizerConfig(lr=0.01),
    )
