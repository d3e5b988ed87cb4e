"""Faster R-CNN of the zoo (`docs/zoo.md`, 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubedet_trainer.config import Recipe
from kubedet_trainer.config.fields import fixed
from kubedet_trainer.models.options.backbones import Style
from kubedet_trainer.models.options.detectors import RegionOptions
from kubedet_trainer.models.options.task import Task
from kubedet_trainer.recipes import common
from kubedet_trainer.recipes.rpn import RpnOptions

if TYPE_CHECKING:
    from kubedet_trainer.models.detector import Detector


@dataclass(frozen=True, kw_only=True)
class FasterRcnnOptions(RegionOptions, RpnOptions):
    """Faster R-CNN (Ren et al., 2015) on a feature pyramid."""

    architecture: str = fixed(default="faster_rcnn")

    def build(self, task: Task) -> Detector:
        """The detector with fresh weights."""
        from kubedet_trainer.models.two_stage import RoiDetector

        return RoiDetector(task, pyramid=self, regions=self, rpn_head=self.rpn_head)


def faster_rcnn(backbone: common.Backbone, style: Style, schedule: str) -> Recipe:
    """Faster R-CNN, trained for one of `common.SCHEDULES`."""
    return common.pyramid_recipe(
        "faster_rcnn",
        FasterRcnnOptions(backbone=common.resnet(backbone, style)),
        backbone=backbone,
        style=style,
        schedule=schedule,
    )
