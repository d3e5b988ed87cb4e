"""Every recipe of kubedet by name, and the way to all others. It imports no torch."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from kubedet_trainer.config import Recipe, apply_overrides
from kubedet_trainer.contract.nearest import did_you_mean
from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.recipes import own, smoke
from kubedet_trainer.recipes.cascade import cascade_mask_rcnn, cascade_rcnn
from kubedet_trainer.recipes.dcn import deformable_convolution, deformable_pooling
from kubedet_trainer.recipes.fast_rcnn import fast_mask_rcnn, fast_rcnn
from kubedet_trainer.recipes.faster_rcnn import faster_rcnn
from kubedet_trainer.recipes.gn import mask_rcnn_gn
from kubedet_trainer.recipes.mask_rcnn import mask_rcnn
from kubedet_trainer.recipes.retinanet import retinanet
from kubedet_trainer.recipes.rpn import rpn
from kubedet_trainer.recipes.ssd import ssd

RECIPES: dict[str, Callable[[], Recipe]] = {
    "rpn_r50_caffe_fpn_1x": partial(rpn, "r50", "caffe", "1x"),
    "rpn_r50_fpn_1x": partial(rpn, "r50", "pytorch", "1x"),
    "rpn_r50_fpn_2x": partial(rpn, "r50", "pytorch", "2x"),
    "rpn_r101_caffe_fpn_1x": partial(rpn, "r101", "caffe", "1x"),
    "rpn_r101_fpn_1x": partial(rpn, "r101", "pytorch", "1x"),
    "rpn_r101_fpn_2x": partial(rpn, "r101", "pytorch", "2x"),
    "rpn_x101_32x4d_fpn_1x": partial(rpn, "x101_32x4d", "pytorch", "1x"),
    "rpn_x101_32x4d_fpn_2x": partial(rpn, "x101_32x4d", "pytorch", "2x"),
    "rpn_x101_64x4d_fpn_1x": partial(rpn, "x101_64x4d", "pytorch", "1x"),
    "rpn_x101_64x4d_fpn_2x": partial(rpn, "x101_64x4d", "pytorch", "2x"),
    "faster_rcnn_r50_caffe_fpn_1x": partial(faster_rcnn, "r50", "caffe", "1x"),
    "faster_rcnn_r50_fpn_1x": partial(faster_rcnn, "r50", "pytorch", "1x"),
    "faster_rcnn_r50_fpn_2x": partial(faster_rcnn, "r50", "pytorch", "2x"),
    "faster_rcnn_r101_caffe_fpn_1x": partial(faster_rcnn, "r101", "caffe", "1x"),
    "faster_rcnn_r101_fpn_1x": partial(faster_rcnn, "r101", "pytorch", "1x"),
    "faster_rcnn_r101_fpn_2x": partial(faster_rcnn, "r101", "pytorch", "2x"),
    "faster_rcnn_x101_32x4d_fpn_1x": partial(faster_rcnn, "x101_32x4d", "pytorch", "1x"),
    "faster_rcnn_x101_32x4d_fpn_2x": partial(faster_rcnn, "x101_32x4d", "pytorch", "2x"),
    "faster_rcnn_x101_64x4d_fpn_1x": partial(faster_rcnn, "x101_64x4d", "pytorch", "1x"),
    "faster_rcnn_x101_64x4d_fpn_2x": partial(faster_rcnn, "x101_64x4d", "pytorch", "2x"),
    "mask_rcnn_r50_caffe_fpn_1x": partial(mask_rcnn, "r50", "caffe", "1x"),
    "mask_rcnn_r50_fpn_1x": partial(mask_rcnn, "r50", "pytorch", "1x"),
    "mask_rcnn_r50_fpn_2x": partial(mask_rcnn, "r50", "pytorch", "2x"),
    "mask_rcnn_r101_caffe_fpn_1x": partial(mask_rcnn, "r101", "caffe", "1x"),
    "mask_rcnn_r101_fpn_1x": partial(mask_rcnn, "r101", "pytorch", "1x"),
    "mask_rcnn_r101_fpn_2x": partial(mask_rcnn, "r101", "pytorch", "2x"),
    "mask_rcnn_x101_32x4d_fpn_1x": partial(mask_rcnn, "x101_32x4d", "pytorch", "1x"),
    "mask_rcnn_x101_32x4d_fpn_2x": partial(mask_rcnn, "x101_32x4d", "pytorch", "2x"),
    "mask_rcnn_x101_64x4d_fpn_1x": partial(mask_rcnn, "x101_64x4d", "pytorch", "1x"),
    "mask_rcnn_x101_64x4d_fpn_2x": partial(mask_rcnn, "x101_64x4d", "pytorch", "2x"),
    "fast_rcnn_r50_caffe_fpn_1x": partial(fast_rcnn, "r50", "caffe", "1x"),
    "fast_rcnn_r50_fpn_1x": partial(fast_rcnn, "r50", "pytorch", "1x"),
    "fast_rcnn_r50_fpn_2x": partial(fast_rcnn, "r50", "pytorch", "2x"),
    "fast_rcnn_r101_caffe_fpn_1x": partial(fast_rcnn, "r101", "caffe", "1x"),
    "fast_rcnn_r101_fpn_1x": partial(fast_rcnn, "r101", "pytorch", "1x"),
    "fast_rcnn_r101_fpn_2x": partial(fast_rcnn, "r101", "pytorch", "2x"),
    "fast_mask_rcnn_r50_caffe_fpn_1x": partial(fast_mask_rcnn, "r50", "caffe", "1x"),
    "fast_mask_rcnn_r50_fpn_1x": partial(fast_mask_rcnn, "r50", "pytorch", "1x"),
    "fast_mask_rcnn_r50_fpn_2x": partial(fast_mask_rcnn, "r50", "pytorch", "2x"),
    "fast_mask_rcnn_r101_caffe_fpn_1x": partial(fast_mask_rcnn, "r101", "caffe", "1x"),
    "fast_mask_rcnn_r101_fpn_1x": partial(fast_mask_rcnn, "r101", "pytorch", "1x"),
    "fast_mask_rcnn_r101_fpn_2x": partial(fast_mask_rcnn, "r101", "pytorch", "2x"),
    "retinanet_r50_caffe_fpn_1x": partial(retinanet, "r50", "caffe", "1x"),
    "retinanet_r50_fpn_1x": partial(retinanet, "r50", "pytorch", "1x"),
    "retinanet_r50_fpn_2x": partial(retinanet, "r50", "pytorch", "2x"),
    "retinanet_r101_caffe_fpn_1x": partial(retinanet, "r101", "caffe", "1x"),
    "retinanet_r101_fpn_1x": partial(retinanet, "r101", "pytorch", "1x"),
    "retinanet_r101_fpn_2x": partial(retinanet, "r101", "pytorch", "2x"),
    "retinanet_x101_32x4d_fpn_1x": partial(retinanet, "x101_32x4d", "pytorch", "1x"),
    "retinanet_x101_32x4d_fpn_2x": partial(retinanet, "x101_32x4d", "pytorch", "2x"),
    "retinanet_x101_64x4d_fpn_1x": partial(retinanet, "x101_64x4d", "pytorch", "1x"),
    "retinanet_x101_64x4d_fpn_2x": partial(retinanet, "x101_64x4d", "pytorch", "2x"),
    "cascade_rcnn_r50_caffe_fpn_1x": partial(cascade_rcnn, "r50", "caffe", "1x"),
    "cascade_rcnn_r50_fpn_1x": partial(cascade_rcnn, "r50", "pytorch", "1x"),
    "cascade_rcnn_r50_fpn_20e": partial(cascade_rcnn, "r50", "pytorch", "20e"),
    "cascade_rcnn_r101_caffe_fpn_1x": partial(cascade_rcnn, "r101", "caffe", "1x"),
    "cascade_rcnn_r101_fpn_1x": partial(cascade_rcnn, "r101", "pytorch", "1x"),
    "cascade_rcnn_r101_fpn_20e": partial(cascade_rcnn, "r101", "pytorch", "20e"),
    "cascade_rcnn_x101_32x4d_fpn_1x": partial(cascade_rcnn, "x101_32x4d", "pytorch", "1x"),
    "cascade_rcnn_x101_32x4d_fpn_20e": partial(cascade_rcnn, "x101_32x4d", "pytorch", "20e"),
    "cascade_rcnn_x101_64x4d_fpn_1x": partial(cascade_rcnn, "x101_64x4d", "pytorch", "1x"),
    "cascade_rcnn_x101_64x4d_fpn_20e": partial(cascade_rcnn, "x101_64x4d", "pytorch", "20e"),
    "cascade_mask_rcnn_r50_caffe_fpn_1x": partial(cascade_mask_rcnn, "r50", "caffe", "1x"),
    "cascade_mask_rcnn_r50_fpn_1x": partial(cascade_mask_rcnn, "r50", "pytorch", "1x"),
    "cascade_mask_rcnn_r50_fpn_20e": partial(cascade_mask_rcnn, "r50", "pytorch", "20e"),
    "cascade_mask_rcnn_r101_caffe_fpn_1x": partial(cascade_mask_rcnn, "r101", "caffe", "1x"),
    "cascade_mask_rcnn_r101_fpn_1x": partial(cascade_mask_rcnn, "r101", "pytorch", "1x"),
    "cascade_mask_rcnn_r101_fpn_20e": partial(cascade_mask_rcnn, "r101", "pytorch", "20e"),
    "cascade_mask_rcnn_x101_32x4d_fpn_1x": partial(cascade_mask_rcnn, "x101_32x4d", "pytorch", "1x"),
    "cascade_mask_rcnn_x101_32x4d_fpn_20e": partial(cascade_mask_rcnn, "x101_32x4d", "pytorch", "20e"),
    "cascade_mask_rcnn_x101_64x4d_fpn_1x": partial(
        cascade_mask_rcnn, "x101_64x4d", "pytorch", "1x", images_per_process=1
    ),
    "cascade_mask_rcnn_x101_64x4d_fpn_20e": partial(
        cascade_mask_rcnn, "x101_64x4d", "pytorch", "20e", images_per_process=1
    ),
    "ssd300_coco": partial(ssd, 300, "coco"),
    "ssd512_coco": partial(ssd, 512, "coco"),
    "ssd300_voc": partial(ssd, 300, "voc"),
    "ssd512_voc": partial(ssd, 512, "voc"),
    "mask_rcnn_r50_fpn_gn_2x": partial(mask_rcnn_gn, "r50", "detectron", "2x"),
    "mask_rcnn_r50_fpn_gn_3x": partial(mask_rcnn_gn, "r50", "detectron", "3x"),
    "mask_rcnn_r101_fpn_gn_2x": partial(mask_rcnn_gn, "r101", "detectron", "2x"),
    "mask_rcnn_r101_fpn_gn_3x": partial(mask_rcnn_gn, "r101", "detectron", "3x"),
    "mask_rcnn_r50_fpn_gn_contrib_2x": partial(mask_rcnn_gn, "r50", "contrib", "2x"),
    "mask_rcnn_r50_fpn_gn_contrib_3x": partial(mask_rcnn_gn, "r50", "contrib", "3x"),
    "faster_rcnn_dconv_c3_c5_r50_fpn_1x": partial(deformable_convolution, "faster_rcnn", "r50", "offsets"),
    "faster_rcnn_mdconv_c3_c5_r50_fpn_1x": partial(deformable_convolution, "faster_rcnn", "r50", "modulated"),
    "faster_rcnn_dpool_r50_fpn_1x": partial(deformable_pooling, "r50", "deformable"),
    "faster_rcnn_mdpool_r50_fpn_1x": partial(deformable_pooling, "r50", "modulated"),
    "faster_rcnn_dconv_c3_c5_r101_fpn_1x": partial(deformable_convolution, "faster_rcnn", "r101", "offsets"),
    "faster_rcnn_dconv_c3_c5_x101_32x4d_fpn_1x": partial(
        deformable_convolution, "faster_rcnn", "x101_32x4d", "offsets"
    ),
    "mask_rcnn_dconv_c3_c5_r50_fpn_1x": partial(deformable_convolution, "mask_rcnn", "r50", "offsets"),
    "mask_rcnn_mdconv_c3_c5_r50_fpn_1x": partial(deformable_convolution, "mask_rcnn", "r50", "modulated"),
    "mask_rcnn_dconv_c3_c5_r101_fpn_1x": partial(deformable_convolution, "mask_rcnn", "r101", "offsets"),
    "cascade_rcnn_dconv_c3_c5_r50_fpn_1x": partial(deformable_convolution, "cascade_rcnn", "r50", "offsets"),
    "cascade_rcnn_dconv_c3_c5_r101_fpn_1x": partial(
        deformable_convolution, "cascade_rcnn", "r101", "offsets"
    ),
    "cascade_mask_rcnn_dconv_c3_c5_r50_fpn_1x": partial(
        deformable_convolution, "cascade_mask_rcnn", "r50", "offsets"
    ),
    "cascade_mask_rcnn_dconv_c3_c5_r101_fpn_1x": partial(
        deformable_convolution, "cascade_mask_rcnn", "r101", "offsets"
    ),
    **smoke.RECIPES,
}
"""Name to the function that makes it."""


def is_recipe(name: str) -> bool:
    """Whether `name` is in `RECIPES` or has the form ``module:attribute``."""
    return name in RECIPES or own.is_own(name)


def read_recipe(name: str) -> Recipe:
    """The recipe called `name`, one of `RECIPES` or ``module:attribute``, carrying that name.

    Raises:
        MissingInput: the module is not here.
        InvalidInput: there is no such recipe, and the message names the nearest; or it breaks a rule.
    """
    if own.is_own(name):
        return own.read_own(name)
    if name not in RECIPES:
        raise InvalidInput(
            f"recipe: got '{name}', must be one that `kubedet recipes` lists, or module:attribute for one of "
            f"your own.{did_you_mean(name, RECIPES)}"
        )
    return replace(RECIPES[name](), name=name)


def find_fault(name: str, overrides: Mapping[str, str]) -> str | None:
    """Why a run of the recipe called `name`, changed by `overrides`, would be refused; None if it would not.

    Names path, value and rule. A path is ``recipe`` or that of a field.

    Raises:
        MissingInput: the recipe is in a module that is not here.
    """
    try:
        apply_overrides(read_recipe(name), overrides)
    except InvalidInput as error:
        return str(error)
    return None
