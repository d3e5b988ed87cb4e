"""Fast R-CNN of the zoo, on proposals computed beforehand (`docs/zoo.md`, 1.4 and 5.6)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kubedet_trainer.config import DetectorOptions, Recipe
from kubedet_trainer.config.fields import fixed
from kubedet_trainer.models.options.backbones import Style
from kubedet_trainer.models.options.detectors import MaskOptions, PyramidOptions, RegionOptions
from kubedet_trainer.models.options.task import Task
from kubedet_trainer.recipes import common

if TYPE_CHECKING:
    from kubedet_trainer.models.detector import Detector

NUM_PROPOSALS = 1000
"""Best proposals of an image that are read of a file, which may hold more."""


@dataclass(frozen=True, kw_only=True)
class FastRcnnOptions(RegionOptions, PyramidOptions, DetectorOptions):
    """Fast R-CNN (Girshick, 2015) on a feature pyramid, with proposals computed beforehand."""

    architecture: str = fixed(default="fast_rcnn")

    def build(self, task: Task) -> Detector:
        """The detector with fresh weights."""
        from kubedet_trainer.models.two_stage import RoiDetector

        return RoiDetector(task, pyramid=self, regions=self)


@dataclass(frozen=True, kw_only=True)
class FastMaskRcnnOptions(MaskOptions, FastRcnnOptions):
    """Fast R-CNN with outlines of the objects."""

    architecture: str = fixed(default="fast_mask_rcnn")

    def build(self, task: Task) -> Detector:
        """The detector with fresh weights."""
        from kubedet_trainer.models.two_stage import RoiDetector

        return RoiDetector(task, pyramid=self, regions=self, masks=self)


def fast_rcnn(backbone: common.Backbone, style: Style, schedule: str) -> Recipe:
    """Fast R-CNN, trained for one of `common.SCHEDULES`."""
    return common.pyramid_recipe(
        "fast_rcnn",
        FastRcnnOptions(backbone=common.resnet(backbone, style)),
        backbone=backbone,
        style=style,
        schedule=schedule,
        data=replace(common.coco_data(style), num_proposals=NUM_PROPOSALS),
    )


def fast_mask_rcnn(backbone: common.Backbone, style: Style, schedule: str) -> Recipe:
    """Fast R-CNN with masks, trained for one of `common.SCHEDULES`."""
    return common.pyramid_recipe(
        "fast_mask_rcnn",
        FastMaskRcnnOptions(backbone=common.resnet(backbone, style)),
        backbone=backbone,
        style=style,
        schedule=schedule,
        data=replace(common.coco_data(style), num_proposals=NUM_PROPOSALS, masks=True),
        evaluation_kind="segm",
    )
