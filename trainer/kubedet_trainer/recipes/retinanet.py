"""RetinaNet of the zoo (`docs/zoo.md`, 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubedet_trainer.config import DetectorOptions, OptimizerConfig, Recipe
from kubedet_trainer.config.fields import fixed
from kubedet_trainer.models.options.backbones import FpnOptions, Style
from kubedet_trainer.models.options.dense import RetinaHeadOptions
from kubedet_trainer.models.options.detectors import PyramidOptions
from kubedet_trainer.models.options.task import Task
from kubedet_trainer.recipes import common

if TYPE_CHECKING:
    from kubedet_trainer.models.detector import Detector


@dataclass(frozen=True, kw_only=True)
class RetinaNetOptions(PyramidOptions, DetectorOptions):
    """RetinaNet (Lin et al., 2017): one stage on a feature pyramid."""

    architecture: str = fixed(default="retinanet")
    neck: FpnOptions = FpnOptions(start_stage=1, extra_levels="conv")
    """Feature maps to a pyramid."""
    retina_head: RetinaHeadOptions = RetinaHeadOptions()
    """Pyramid to detections."""

    def build(self, task: Task) -> Detector:
        """The detector with fresh weights."""
        from kubedet_trainer.models.retinanet import RetinaNet

        return RetinaNet(task, pyramid=self, head=self.retina_head)


def retinanet(backbone: common.Backbone, style: Style, schedule: str) -> Recipe:
    """RetinaNet, trained for one of `common.SCHEDULES` at half the others' learning rate."""
    return common.pyramid_recipe(
        "retinanet",
        RetinaNetOptions(backbone=common.resnet(backbone, style)),
        backbone=backbone,
        style=style,
        schedule=schedule,
        optimizer=OptimizerConfig(lr=0.01),
    )
