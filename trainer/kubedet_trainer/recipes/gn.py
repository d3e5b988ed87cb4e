"""Mask R-CNN of the zoo with group normalisation throughout (Wu and He, 2018; `docs/zoo.md`, 2.4)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from kubedet_trainer.config import DataConfig, Recipe
from kubedet_trainer.models.options.backbones import FpnOptions
from kubedet_trainer.models.options.two_stage import BoxHeadOptions, MaskHeadOptions
from kubedet_trainer.recipes import common
from kubedet_trainer.recipes.mask_rcnn import MaskRcnnOptions

Source = Literal["detectron", "contrib"]

_WEIGHTS: dict[tuple[Source, common.Backbone], str] = {
    ("detectron", "r50"): f"{common.PRETRAINED}/resnet50_gn-9186a21c.pth",
    ("detectron", "r101"): f"{common.PRETRAINED}/resnet101_gn-cac0ab98.pth",
    ("contrib", "r50"): f"{common.PRETRAINED}/resnet50_gn_thangvubk-ad1730dd.pth",
}


def mask_rcnn_gn(backbone: common.Backbone, source: Source, schedule: str) -> Recipe:
    """Mask R-CNN with group normalisation, from Detectron's weights or a contributor's.

    Detectron's were trained on caffe's pixels, yet have pytorch's strides.
    """
    pixels = common.STYLES["caffe" if source == "detectron" else "pytorch"].normalisation
    model = MaskRcnnOptions(
        backbone=replace(common.resnet(backbone), norm="gn"),
        neck=FpnOptions(norm="gn"),
        box_head=BoxHeadOptions(num_convs=4, num_fcs=1, norm="gn"),
        mask_head=MaskHeadOptions(norm="gn"),
    )
    variant = "gn" if source == "detectron" else "gn_contrib"
    return common.zoo_recipe(
        common.recipe_name("mask_rcnn", backbone=backbone, schedule=f"{variant}_{schedule}"),
        model,
        data=DataConfig(normalisation=pixels, masks=True),
        schedule=schedule,
        pretrained=_WEIGHTS[source, backbone],
        evaluation_kind="segm",
    )
