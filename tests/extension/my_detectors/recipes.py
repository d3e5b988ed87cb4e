"""FCOS in two recipes: as its authors trained it, and small, to learn from scratch on two CPU cores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kubedet_trainer.config import DetectorOptions, OptimizerConfig, Recipe
from kubedet_trainer.config.fields import fixed
from kubedet_trainer.models.options.backbones import FpnOptions
from kubedet_trainer.models.options.detectors import PyramidOptions
from kubedet_trainer.models.options.task import Task
from kubedet_trainer.recipes import common, smoke
from my_detectors.options import FcosHeadOptions

if TYPE_CHECKING:
    from kubedet_trainer.models.detector import Detector


@dataclass(frozen=True, kw_only=True)
class FcosOptions(PyramidOptions, DetectorOptions):
    """FCOS (Tian et al., 2019) on a feature pyramid."""

    architecture: str = fixed(default="fcos")
    neck: FpnOptions = FpnOptions(start_stage=1, extra_levels="conv")
    fcos_head: FcosHeadOptions = FcosHeadOptions()

    def build(self, task: Task) -> Detector:
        """The detector with fresh weights."""
        from my_detectors.fcos import Fcos  # not before: it imports torch

        return Fcos(task, pyramid=self, head=self.fcos_head)


def fcos_r50_fpn_1x() -> Recipe:
    """FCOS on a pretrained ResNet-50."""
    return common.pyramid_recipe(
        "fcos",
        FcosOptions(backbone=common.resnet("r50")),
        backbone="r50",
        schedule="1x",
        optimizer=OptimizerConfig(lr=0.01),
    )


def smoke_fcos() -> Recipe:
    """A small FCOS."""
    model = FcosOptions(
        backbone=smoke.BACKBONE,
        neck=replace(smoke.NECK, extra_levels="conv"),
        fcos_head=FcosHeadOptions(num_convs=1, norm_groups=4),
    )
    return smoke.smoke_recipe(model)
