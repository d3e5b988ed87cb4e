"""Cascade R-CNN of the zoo, with masks and without (`docs/zoo.md`, 6)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kubedet_trainer.config import Recipe
from kubedet_trainer.config.fields import fixed
from kubedet_trainer.models.options.backbones import Style
from kubedet_trainer.models.options.detectors import MaskOptions
from kubedet_trainer.models.options.task import Task
from kubedet_trainer.models.options.two_stage import BoxHeadOptions, CascadeOptions
from kubedet_trainer.recipes import common
from kubedet_trainer.recipes.faster_rcnn import FasterRcnnOptions

if TYPE_CHECKING:
    from kubedet_trainer.models.detector import Detector


@dataclass(frozen=True, kw_only=True)
class CascadeRcnnOptions(FasterRcnnOptions):
    """Cascade R-CNN (Cai and Vasconcelos, 2017): stages that refine each other's boxes."""

    architecture: str = fixed(default="cascade_rcnn")
    box_head: BoxHeadOptions = BoxHeadOptions(class_agnostic=True)
    """The first stage."""
    cascade: CascadeOptions = CascadeOptions()
    """How the further stages differ from it."""

    def breaches(self) -> Iterator[tuple[str, str]]:
        """A refinement for each class: which one would the next stage start from?"""
        if not self.box_head.class_agnostic:
            yield "box_head.class_agnostic", "must be True in a cascade"

    def build(self, task: Task) -> Detector:
        """The detector with fresh weights."""
        from kubedet_trainer.models.cascade import CascadeDetector

        return CascadeDetector(task, pyramid=self, regions=self, rpn_head=self.rpn_head, cascade=self.cascade)


@dataclass(frozen=True, kw_only=True)
class CascadeMaskRcnnOptions(MaskOptions, CascadeRcnnOptions):
    """Cascade R-CNN with outlines of the objects."""

    architecture: str = fixed(default="cascade_mask_rcnn")

    def build(self, task: Task) -> Detector:
        """The detector with fresh weights."""
        from kubedet_trainer.models.cascade import CascadeDetector

        return CascadeDetector(
            task, pyramid=self, regions=self, rpn_head=self.rpn_head, cascade=self.cascade, masks=self
        )


def cascade_rcnn(backbone: common.Backbone, style: Style, schedule: str) -> Recipe:
    """Cascade R-CNN, trained for one of `common.SCHEDULES`."""
    return common.pyramid_recipe(
        "cascade_rcnn",
        CascadeRcnnOptions(backbone=common.resnet(backbone, style)),
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
        CascadeMaskRcnnOptions(backbone=common.resnet(backbone, style)),
        backbone=backbone,
        style=style,
        schedule=schedule,
        data=data,
        evaluation_kind="segm",
    )
