"""Mask R-CNN of the zoo (`docs/zoo.md`, 5.5)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kubedet_trainer.config import Recipe
from kubedet_trainer.config.fields import fixed
from kubedet_trainer.models.options.backbones import Style
from kubedet_trainer.models.options.detectors import MaskOptions
from kubedet_trainer.models.options.task import Task
from kubedet_trainer.recipes import common
from kubedet_trainer.recipes.faster_rcnn import FasterRcnnOptions

if TYPE_CHECKING:
    from kubedet_trainer.models.detector import Detector


@dataclass(frozen=True, kw_only=True)
class MaskRcnnOptions(MaskOptions, FasterRcnnOptions):
    """Mask R-CNN (He et al., 2017) on a feature pyramid."""

    architecture: str = fixed(default="mask_rcnn")

    def build(self, task: Task) -> Detector:
        """The detector with fresh weights."""
        from kubedet_trainer.models.two_stage import RoiDetector

        return RoiDetector(task, pyramid=self, regions=self, rpn_head=self.rpn_head, masks=self)


def mask_rcnn(backbone: common.Backbone, style: Style, schedule: str) -> Recipe:
    """Mask R-CNN, trained for one of `common.SCHEDULES`."""
    return common.pyramid_recipe(
        "mask_rcnn",
        MaskRcnnOptions(backbone=common.resnet(backbone, style)),
        backbone=backbone,
        style=style,
        schedule=schedule,
        data=replace(common.coco_data(style), masks=True),
        evaluation_kind="segm",
    )
