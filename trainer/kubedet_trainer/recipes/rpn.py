"""Region proposal networks of the zoo (`docs/zoo.md`, 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubedet_trainer.config import DetectorOptions, Recipe
from kubedet_trainer.config.fields import fixed
from kubedet_trainer.models.options.backbones import Style
from kubedet_trainer.models.options.detectors import PyramidOptions
from kubedet_trainer.models.options.task import Task
from kubedet_trainer.models.options.two_stage import RpnHeadOptions
from kubedet_trainer.recipes import common

if TYPE_CHECKING:
    from kubedet_trainer.models.detector import Detector


@dataclass(frozen=True, kw_only=True)
class RpnOptions(PyramidOptions, DetectorOptions):
    """A region proposal network alone, trained for recall."""

    architecture: str = fixed(default="rpn")
    rpn_head: RpnHeadOptions = RpnHeadOptions()
    """Pyramid to proposals."""

    def build(self, task: Task) -> Detector:
        """The network. It does not distinguish classes."""
        from kubedet_trainer.models.two_stage import Rpn

        return Rpn(task, pyramid=self, rpn_head=self.rpn_head)


def rpn(backbone: common.Backbone, style: Style, schedule: str) -> Recipe:
    """A proposal network, trained for one of `common.SCHEDULES`."""
    return common.pyramid_recipe(
        "rpn",
        RpnOptions(backbone=common.resnet(backbone, style)),
        backbone=backbone,
        style=style,
        schedule=schedule,
        evaluation_kind="proposal",
    )
