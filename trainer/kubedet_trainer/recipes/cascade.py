"""Cascade R-CNN of the zoo, with masks and without (`zoo.md` 6)."""

from __future__ import annotations

from dataclasses import replace

from kubedet_trainer.config import CascadeMaskRcnnConfig, CascadeRcnnConfig, Recipe
from kubedet_trainer.config.backbones import Style
from kubedet_trainer.recipes import common


def cascade_rcnn(backbone: common.Backbone, style: Style, schedule: str) -> Recipe:
    """Cascade R-CNN, trained for one of `common.SCHEDULES`."""
    return common.pyramid_recipe(
        "cascade_rcnn",
        CascadeRcnnConfig(backbone=common.resnet(backbone, style)),
        backbone=backbone,
        style=style,
        schedule=schedule,
    )


def cascade_mask_rcnn(
    backbone: common.Backbone, style: Style, schedule: str, *, images_per_process: int = 2
) -> Recipe:
    """Cascade R-CNN with masks; the zoo's largest needed 16 GPUs of one image each for the same batch."""
    data = replace(common.coco_data(style), masks=True, images_per_process=images_per_process)
    return common.pyramid_recipe(
        "cascade_mask_rcnn",
        CascadeMaskRcnnConfig(backbone=common.resnet(backbone, style)),
        backbone=backbone,
        style=style,
        schedule=schedule,
        data=data,
        evaluation_kind="segm",
    )
