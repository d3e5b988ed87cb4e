"""The zoo's detectors with deformable convolutions or pooling (Zhu et al., 2018; `docs/zoo.md`, 2.5 and 2.6).

All are trained for 1x from pytorch's weights; the offsets' layers start as fresh layers do.
"""

from __future__ import annotations

from dataclasses import replace

from kubedet_trainer.config import Recipe
from kubedet_trainer.models.options.backbones import Deformable
from kubedet_trainer.models.options.two_stage import RoiKind, RoiOptions
from kubedet_trainer.recipes import common
from kubedet_trainer.recipes.cascade import CascadeMaskRcnnOptions, CascadeRcnnOptions
from kubedet_trainer.recipes.faster_rcnn import FasterRcnnOptions
from kubedet_trainer.recipes.mask_rcnn import MaskRcnnOptions

_METHODS = (FasterRcnnOptions, MaskRcnnOptions, CascadeRcnnOptions, CascadeMaskRcnnOptions)
_CONVOLUTIONS: dict[Deformable, str] = {"offsets": "dconv", "modulated": "mdconv"}
_POOLINGS: dict[RoiKind, str] = {"deformable": "dpool", "modulated": "mdpool"}
_SCHEDULE = "1x"


def deformable_convolution(method: str, backbone: common.Backbone, kind: Deformable) -> Recipe:
    """The detector `method` with deformable 3x3 convolutions in stages 3 to 5."""
    options = {method.architecture: method for method in _METHODS}
    has_masks = "mask" in method
    return common.pyramid_recipe(
        f"{method}_{_CONVOLUTIONS[kind]}_c3_c5",
        options[method](backbone=replace(common.resnet(backbone), deformable=kind)),
        backbone=backbone,
        schedule=_SCHEDULE,
        data=replace(common.coco_data(), masks=has_masks),
        evaluation_kind="segm" if has_masks else "bbox",
    )


def deformable_pooling(backbone: common.Backbone, kind: RoiKind) -> Recipe:
    """Faster R-CNN with deformable pooling of its regions."""
    return common.pyramid_recipe(
        f"faster_rcnn_{_POOLINGS[kind]}",
        FasterRcnnOptions(backbone=common.resnet(backbone), box_roi=RoiOptions(kind=kind)),
        backbone=backbone,
        schedule=_SCHEDULE,
    )
