"""Fast R-CNN of the zoo, on proposals computed beforehand (`zoo.md` 1.4, 5.6)."""

from __future__ import annotations

from dataclasses import replace

from kubedet_trainer.config import FastMaskRcnnConfig, FastRcnnConfig, Recipe
from kubedet_trainer.config.backbones import Style
from kubedet_trainer.recipes import common

NUM_PROPOSALS = 1000
"""Best proposals of an image that are read of a file, which may hold more."""


def fast_rcnn(backbone: common.Backbone, style: Style, schedule: str) -> Recipe:
    """Fast R-CNN, trained for one of `common.SCHEDULES`."""
    return common.pyramid_recipe(
        "fast_rcnn",
        FastRcnnConfig(backbone=common.resnet(backbone, style)),
        backbone=backbone,
        style=style,
        schedule=schedule,
        data=replace(common.coco_data(style), num_proposals=NUM_PROPOSALS),
    )


def fast_mask_rcnn(backbone: common.Backbone, style: Style, schedule: str) -> Recipe:
    """Fast R-CNN with masks, trained for one of `common.SCHEDULES`."""
    return common.pyramid_recipe(
        "fast_mask_rcnn",
        FastMaskRcnnConfig(backbone=common.resnet(backbone, style)),
        backbone=backbone,
        style=style,
        schedule=schedule,
        data=replace(common.coco_data(style), num_proposals=NUM_PROPOSALS, masks=True),
        evaluation_kind="segm",
    )
