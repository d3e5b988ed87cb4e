"""Recipes that learn from scratch on two CPU cores in minutes: for the demo, tests and end-to-end runs.

The detectors are the zoo's with everything small: few channels and blocks, group normalisation instead of
frozen statistics, a pyramid from stride 8 on, few proposals and samples. Static shapes make every slot cost
time, used or not. Half of the second stage's samples are positive, because the classes are learnt last.
"""

from __future__ import annotations

from collections.abc import Callable
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
from kubedet_trainer.recipes.ssd import COLOURS, SsdOptions

BACKBONE = ResNetOptions(
    stage_blocks=(1, 1, 1, 1), stem_channels=16, norm="gn", norm_groups=4, frozen_stages=-1, norm_eval=False
)
NECK = FpnOptions(channels=64, start_stage=1, num_levels=3)
RPN_HEAD = RpnHeadOptions(anchor_scales=(4.0,), num_samples=64, nms_pre=128, nms_post=64, num_proposals=64)
BOX_HEAD = BoxHeadOptions(fc_channels=128, num_samples=32, positive_fraction=0.5)
CASCADE_HEAD = replace(BOX_HEAD, class_agnostic=True)
MASK_ROI = RoiOptions(size=7)
MASK_HEAD = MaskHeadOptions(num_convs=2, channels=64)
DATA = DataConfig(
    normalisation=common.STYLES["pytorch"].normalisation, scale=(320, 240), images_per_process=4
)
MASK_DATA = replace(DATA, masks=True)
NUM_PROPOSALS = 64
OPTIMIZER = OptimizerConfig(lr=0.02, clip_norm=5.0)
SCHEDULE = ScheduleConfig(epochs=16, decay_epochs=(12, 15), warmup_iterations=100, warmup_ratio=0.1)


def smoke_rpn() -> Recipe:
    """A small region proposal network, which may propose more: it does so only in tests."""
    rpn_head = replace(RPN_HEAD, nms_pre=1000, nms_post=1000, num_proposals=1000)
    recipe = smoke_recipe(
        RpnOptions(backbone=BACKBONE, neck=NECK, rpn_head=rpn_head), evaluation_kind="proposal"
    )
    return replace(recipe, schedule=replace(SCHEDULE, epochs=8, decay_epochs=(6, 7), warmup_iterations=50))


def smoke_fast_rcnn() -> Recipe:
    """A small Fast R-CNN, for the proposals of `smoke_rpn`."""
    model = FastRcnnOptions(backbone=BACKBONE, neck=NECK, box_head=BOX_HEAD)
    return smoke_recipe(model, data=replace(DATA, num_proposals=NUM_PROPOSALS))


def smoke_fast_mask_rcnn() -> Recipe:
    """A small Fast R-CNN with masks, for the proposals of `smoke_rpn`."""
    model = FastMaskRcnnOptions(
        backbone=BACKBONE, neck=NECK, box_head=BOX_HEAD, mask_roi=MASK_ROI, mask_head=MASK_HEAD
    )
    return smoke_recipe(model, data=replace(MASK_DATA, num_proposals=NUM_PROPOSALS), evaluation_kind="segm")


def smoke_faster_rcnn() -> Recipe:
    """A small Faster R-CNN."""
    model = FasterRcnnOptions(backbone=BACKBONE, neck=NECK, rpn_head=RPN_HEAD, box_head=BOX_HEAD)
    return smoke_recipe(model)


def smoke_mask_rcnn() -> Recipe:
    """A small Mask R-CNN."""
    model = MaskRcnnOptions(
        backbone=BACKBONE,
        neck=NECK,
        rpn_head=RPN_HEAD,
        box_head=BOX_HEAD,
        mask_roi=MASK_ROI,
        mask_head=MASK_HEAD,
    )
    return smoke_recipe(model, data=MASK_DATA, evaluation_kind="segm")


def smoke_cascade_rcnn() -> Recipe:
    """A small Cascade R-CNN."""
    model = CascadeRcnnOptions(backbone=BACKBONE, neck=NECK, rpn_head=RPN_HEAD, box_head=CASCADE_HEAD)
    return smoke_recipe(model)


def smoke_cascade_mask_rcnn() -> Recipe:
    """A small Cascade R-CNN with masks."""
    model = CascadeMaskRcnnOptions(
        backbone=BACKBONE,
        neck=NECK,
        rpn_head=RPN_HEAD,
        box_head=CASCADE_HEAD,
        mask_roi=MASK_ROI,
        mask_head=MASK_HEAD,
    )
    return smoke_recipe(model, data=MASK_DATA, evaluation_kind="segm")


def smoke_retinanet() -> Recipe:
    """A small RetinaNet."""
    model = RetinaNetOptions(
        backbone=BACKBONE,
        neck=replace(NECK, extra_levels="conv"),
        retina_head=RetinaHeadOptions(num_convs=1, nms_pre=128),
    )
    return smoke_recipe(model)


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
    data = replace(
        DATA,
        scale=(300, 300),
        keep_aspect=False,
        augmentation="ssd",
        colours=COLOURS,
        pad_multiple=1,
        repeat=2,
    )
    return replace(
        smoke_recipe(model, data=data),
        schedule=replace(SCHEDULE, epochs=12, decay_epochs=(8, 11), warmup_iterations=50),
        optimizer=replace(OPTIMIZER, lr=0.01),
        evaluation_detections=100,
    )


def smoke_recipe(
    model: DetectorOptions, *, data: DataConfig = DATA, evaluation_kind: EvaluationKind = "bbox"
) -> Recipe:
    """A recipe that learns `model`, made of small parts, from scratch."""
    return Recipe(
        model=model,
        data=data,
        schedule=SCHEDULE,
        optimizer=OPTIMIZER,
        global_batch=8,
        evaluation_kind=evaluation_kind,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "smoke_rpn": smoke_rpn,
    "smoke_fast_rcnn": smoke_fast_rcnn,
    "smoke_fast_mask_rcnn": smoke_fast_mask_rcnn,
    "smoke_faster_rcnn": smoke_faster_rcnn,
    "smoke_mask_rcnn": smoke_mask_rcnn,
    "smoke_cascade_rcnn": smoke_cascade_rcnn,
    "smoke_cascade_mask_rcnn": smoke_cascade_mask_rcnn,
    "smoke_retinanet": smoke_retinanet,
    "smoke_ssd": smoke_ssd,
}
"""Name to the function that makes it."""
