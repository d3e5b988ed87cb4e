"""Recipes that learn from scratch on two CPU cores in minutes: for the demo, tests and end-to-end runs.

The detectors are the zoo's with everything small: few channels and blocks, group normalisation instead of
frozen statistics, a pyramid from stride 8 on, few proposals and samples. Static shapes make every slot cost
time, used or not. Half of the second stage's samples are positive, because the
classes are learnt last.
"""

from __future__ import annotations

from kubedet_trainer.config import (
    BackboneConfig,
    BoxHeadConfig,
    DataConfig,
    FasterRcnnConfig,
    NeckConfig,
    OptimizerConfig,
    Recipe,
    RpnConfig,
    RpnHeadConfig,
    ScheduleConfig,
)
from kubedet_trainer.recipes import common

_BACKBONE = BackboneConfig(
    stage_blocks=(1, 1, 1, 1), stem_channels=16, norm="gn", norm_groups=4, frozen_stages=-1, norm_eval=False
)
_NECK = NeckConfig(channels=64, start_stage=1, num_levels=3)
_RPN_HEAD = RpnHeadConfig(anchor_scales=(4.0,), num_samples=64, nms_pre=128, nms_post=64, num_proposals=64)
_BOX_HEAD = BoxHeadConfig(fc_channels=128, num_samples=32, positive_fraction=0.5)
_DATA = DataConfig(
    normalisation=common.STYLES["pytorch"].normalisation, scale=(320, 240), images_per_process=4
)
_OPTIMIZER = OptimizerConfig(lr=0.02, clip_norm=5.0)
_SCHEDULE = ScheduleConfig(epochs=16, decay_epochs=(12, 15), warmup_iterations=100, warmup_ratio=0.1)


def smoke_faster_rcnn() -> Recipe:
    """A small Faster R-CNN."""
    return Recipe(
        name="smoke_faster_rcnn",
        model=FasterRcnnConfig(backbone=_BACKBONE, neck=_NECK, rpn_head=_RPN_HEAD, box_head=_BOX_HEAD),
        data=_DATA,
        schedule=_SCHEDULE,
        optimizer=_OPTIMIZER,
        global_batch=8,
    )


def smoke_rpn() -> Recipe:
    """A small region proposal network."""
    return Recipe(
        name="smoke_rpn",
        model=RpnConfig(backbone=_BACKBONE, neck=_NECK, rpn_head=_RPN_HEAD),
        data=_DATA,
        schedule=_SCHEDULE,
        optimizer=_OPTIMIZER,
        global_batch=8,
        evaluation_kind="proposal",
    )
