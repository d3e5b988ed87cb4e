"""Mask R-CNN of the zoo (`zoo.md` 5.5)."""

from __future__ import annotations

from dataclasses import replace

from kubedet_trainer.config import MaskRcnnConfig, Recipe
from kubedet_trainer.config.backbones import Style
from kubedet_trainer.recipes import common


def mask_rcnn(backbone: common.Backbone, style: Style, schedule: str) -> Recipe:
    """Mask R-CNN, trained for one of `common.SCHEDULES`."""
    return common.pyramid_recipe(
        "mask_rcnn",
        MaskRcnnConfig(backbone=common.resnet(backbone, style)),
        backbone=backbone,
        style=style,
        schedule=schedule,
        data=replace(common.coco_data(style), masks=True),
        evaluation_kind="segm",
    )
