"""Recipes that learn from scratch on two CPU cores in minutes: for the demo, tests and end-to-end runs.

The detectors are the zoo's with everything small: few channels and blocks, group normalisation instead of
frozen statistics, a pyramid from stride 8 on, few proposals and samples. Static shapes make every slot cost
time, used or not. Half of the second stage's samples are positive, because the classes are learnt last.
"""

from __future__ import annotations

from dataclasses import replace

from kubedet_trainer.config import DataConfig, DetectorOptions, OptimizerConfig, Recipe, ScheduleConfig
from kubedet_trainer.config.recipe import EvaluationKind
from kubedet_trainer.models.options.backbones import FpnOptions, ResNetOptions, VggOptions
from kubedet_trainer.models.options.dense import RetinaHeadOptions
from kubedet_trainer.models.options.two_stage import (
    BoxHeadOptions,
    MaskHeadOptions,
    RoiOptions,
    RpnHeadOptions,
)
from kubedet_trainer.recipes import common
from kubedet_trainer.recipes.cascade import CascadeMaskRcnnOptions, CascadeRcnnOptions
from kubedet_trainer.recipes.fast_rcnn import FastMaskRcnnOptions, FastRcnnOptions
from kubedet_trainer.recipes.faster_rcnn import FasterRcnnOptions
from kubedet_trainer.recipes.mask_rcnn import MaskRcnnOptions
from kubedet_trainer.recipes.retinanet import RetinaNetOptions
from kubedet_trainer.recipes.rpn import RpnOptions
from kubedet_trainer.recipes.ssd import SsdOptions

_BACKBONE = ResNetOptions(
    stage_blocks=(1, 1, 1, 1), stem_channels=16, norm="gn", norm_groups=4, frozen_stages=-1, norm_eval=False
)
_NECK = FpnOptions(channels=64, start_stage=1, num_levels=3)
_RPN_HEAD = RpnHeadOptions(anchor_scales=(4.0,), num_samples=64, nms_pre=128, nms_post=64, num_proposals=64)
_BOX_HEAD = BoxHeadOptions(fc_channels=128, num_samples=32, positive_fraction=0.5)
_CASCADE_HEAD = replace(_BOX_HEAD, class_agnostic=True)
_MASK_ROI = RoiOptions(size=7)
_MASK_HEAD = MaskHeadOptions(num_convs=2, channels=64)
_DATA = DataConfig(
    normalisation=common.STYLES["pytorch"].normalisation, scale=(320, 240), images_per_process=4
)
_MASK_DATA = replace(_DATA, masks=True)
_NUM_PROPOSALS = 64
_OPTIMIZER = OptimizerConfig(lr=0.02, clip_norm=5.0)
_SCHEDULE = ScheduleConfig(epochs=16, decay_epochs=(12, 15), warmup_iterations=100, warmup_ratio=0.1)


def smoke_rpn() -> Recipe:
    """A small region proposal network, which may propose more: it does so only in tests."""
    rpn_head = replace(_RPN_HEAD, nms_pre=1000, nms_post=1000, num_proposals=1000)
    recipe = _recipe(
        RpnOptions(backbone=_BACKBONE, neck=_NECK, rpn_head=rpn_head), evaluation_kind="proposal"
    )
    return replace(recipe, schedule=replace(_SCHEDULE, epochs=8, decay_epochs=(6, 7), warmup_iterations=50))


def smoke_fast_rcnn() -> Recipe:
    """A small Fast R-CNN, for the proposals of `smoke_rpn`."""
    model = FastRcnnOptions(backbone=_BACKBONE, neck=_NECK, box_head=_BOX_HEAD)
    return _recipe(model, data=replace(_DATA, num_proposals=_NUM_PROPOSALS))


def smoke_fast_mask_rcnn() -> Recipe:
    """A small Fast R-CNN with masks, for the proposals of `smoke_rpn`."""
    model = FastMaskRcnnOptions(
        backbone=_BACKBONE, neck=_NECK, box_head=_BOX_HEAD, mask_roi=_MASK_ROI, mask_head=_MASK_HEAD
    )
    return _recipe(model, data=replace(_MASK_DATA, num_proposals=_NUM_PROPOSALS), evaluation_kind="segm")


def smoke_faster_rcnn() -> Recipe:
    """A small Faster R-CNN."""
    model = FasterRcnnOptions(backbone=_BACKBONE, neck=_NECK, rpn_head=_RPN_HEAD, box_head=_BOX_HEAD)
    return _recipe(model)


def smoke_mask_rcnn() -> Recipe:
    """A small Mask R-CNN."""
    model = MaskRcnnOptions(
        backbone=_BACKBONE,
        neck=_NECK,
        rpn_head=_RPN_HEAD,
        box_head=_BOX_HEAD,
        mask_roi=_MASK_ROI,
        mask_head=_MASK_HEAD,
    )
    return _recipe(model, data=_MASK_DATA, evaluation_kind="segm")


def smoke_cascade_rcnn() -> Recipe:
    """A small Cascade R-CNN."""
    model = CascadeRcnnOptions(backbone=_BACKBONE, neck=_NECK, rpn_head=_RPN_HEAD, box_head=_CASCADE_HEAD)
    return _recipe(model)


def smoke_cascade_mask_rcnn() -> Recipe:
    """A small Cascade R-CNN with masks."""
    model = CascadeMaskRcnnOptions(
        backbone=_BACKBONE,
        neck=_NECK,
        rpn_head=_RPN_HEAD,
        box_head=_CASCADE_HEAD,
        mask_roi=_MASK_ROI,
        mask_head=_MASK_HEAD,
    )
    return _recipe(model, data=_MASK_DATA, evaluation_kind="segm")


def smoke_retinanet() -> Recipe:
    """A small RetinaNet."""
    model = RetinaNetOptions(
        backbone=_BACKBONE,
        neck=replace(_NECK, extra_levels="conv"),
        retina_head=RetinaHeadOptions(num_convs=1, nms_pre=128),
    )
    return _recipe(model)


def smoke_ssd() -> Recipe:
    """A small single shot detector, of fewer convolutions and with what makes them learn from scratch."""
    model = SsdOptions(
        backbone=VggOptions(
            stage_convs=(1, 1, 2, 2, 2),
            stage_channels=(8, 16, 32, 64, 64),
            fc_channels=128,
            extra_channels=32,
            norm="gn",
            norm_groups=4,
            first_source_scale=6.0,
        )
    )
    data = replace(_DATA, scale=(300, 300), keep_aspect=False, augmentation="ssd", pad_multiple=1, repeat=2)
    return replace(
        _recipe(model, data=data),
        schedule=replace(_SCHEDULE, epochs=12, decay_epochs=(8, 11), warmup_iterations=50),
        optimizer=replace(_OPTIMIZER, lr=0.01),
        evaluation_detections=100,
    )


def _recipe(
    model: DetectorOptions, *, data: DataConfig = _DATA, evaluation_kind: EvaluationKind = "bbox"
) -> Recipe:
    return Recipe(
        name=f"smoke_{model.architecture}",
        model=model,
        data=data,
        schedule=_SCHEDULE,
        optimizer=_OPTIMIZER,
        global_batch=8,
        evaluation_kind=evaluation_kind,
    )
