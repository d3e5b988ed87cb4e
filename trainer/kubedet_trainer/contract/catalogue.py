"""The recipes of the zoo by name, in the order of its page, and what each name says.

The trainer defines the recipes, and a test compares both. The pure rooms of the operator import no recipe,
but must know what a table of recipes holds, and which network makes the proposals of which detector.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

SMOKE = "smoke"
"""Prefix of the small recipes, and the section that lists them."""

Method = Literal[
    "rpn",
    "fast_rcnn",
    "fast_mask_rcnn",
    "faster_rcnn",
    "mask_rcnn",
    "cascade_rcnn",
    "cascade_mask_rcnn",
    "retinanet",
    "ssd",
]
"""Detectors of the zoo."""
Section = Literal[
    "rpn",
    "faster_rcnn",
    "mask_rcnn",
    "fast_rcnn",
    "retinanet",
    "cascade_rcnn",
    "cascade_mask_rcnn",
    "ssd",
    "ssd_voc",
    "gn",
    "dcn",
    "smoke",
]
"""Tables of the zoo's page, and the small recipes."""

_R50_R101 = tuple(
    f"{backbone}_{rest}" for backbone in ("r50", "r101") for rest in ("caffe_fpn_1x", "fpn_1x", "fpn_2x")
)
_R50_R101_20E = tuple(name.replace("_2x", "_20e") for name in _R50_R101)
_X101 = tuple(f"x101_{width}_fpn_{times}" for width in ("32x4d", "64x4d") for times in ("1x", "2x"))
_X101_20E = tuple(name.replace("_2x", "_20e") for name in _X101)
_GN = tuple(f"{backbone}_fpn_gn_{times}" for backbone in ("r50", "r101") for times in ("2x", "3x"))
_TABLES = (
    ("rpn", (*_R50_R101, *_X101)),
    ("faster_rcnn", (*_R50_R101, *_X101)),
    ("mask_rcnn", (*_R50_R101, *_X101)),
    ("fast_rcnn", _R50_R101),
    ("fast_mask_rcnn", _R50_R101),
    ("retinanet", (*_R50_R101, *_X101)),
    ("cascade_rcnn", (*_R50_R101_20E, *_X101_20E)),
    ("cascade_mask_rcnn", (*_R50_R101_20E, *_X101_20E)),
    ("ssd300", ("coco",)),
    ("ssd512", ("coco",)),
    ("ssd300", ("voc",)),
    ("ssd512", ("voc",)),
    ("mask_rcnn", (*_GN, "r50_fpn_gn_contrib_2x", "r50_fpn_gn_contrib_3x")),
    ("faster_rcnn_dconv_c3_c5", ("r50_fpn_1x",)),
    ("faster_rcnn_mdconv_c3_c5", ("r50_fpn_1x",)),
    ("faster_rcnn_dpool", ("r50_fpn_1x",)),
    ("faster_rcnn_mdpool", ("r50_fpn_1x",)),
    ("faster_rcnn_dconv_c3_c5", ("r101_fpn_1x", "x101_32x4d_fpn_1x")),
    ("mask_rcnn_dconv_c3_c5", ("r50_fpn_1x",)),
    ("mask_rcnn_mdconv_c3_c5", ("r50_fpn_1x",)),
    ("mask_rcnn_dconv_c3_c5", ("r101_fpn_1x",)),
    ("cascade_rcnn_dconv_c3_c5", ("r50_fpn_1x", "r101_fpn_1x")),
    ("cascade_mask_rcnn_dconv_c3_c5", ("r50_fpn_1x", "r101_fpn_1x")),
)
NAMES = tuple(f"{method}_{rest}" for method, rests in _TABLES for rest in rests)
"""The 95 rows of the zoo's page, in its order."""
SMOKE_NAMES = tuple(f"{SMOKE}_{method}" for method in get_args(Method))
"""The small recipes, for which nothing is published."""

_LONGEST_FIRST = "|".join(sorted(get_args(Method), key=len, reverse=True))
_FACETS = re.compile(
    rf"(?P<smoke>{SMOKE}_)?(?P<method>{_LONGEST_FIRST})(?P<size>\d+)?"
    r"(?P<dcn>_m?(dconv_c3_c5|dpool))?(_(?P<backbone>r50|r101|x101_(32|64)x4d))?(_(?P<style>caffe))?"
    r"(_fpn)?(?P<gn>_gn(_contrib)?)?(_(?P<dataset>coco|voc))?(_(?P<schedule>\d+(x|e)))?"
)
_SSD_SCHEDULES = {"coco": "120e", "voc": "240e"}


@dataclass(frozen=True, kw_only=True)
class Facets:
    """What recipes can be chosen by; None where it is no choice of the zoo's."""

    method: str
    backbone: str | None = None
    style: str | None = None
    schedule: str | None = None
    dataset: str | None = None
    section: str


@cache
def read_facets(recipe: str) -> Facets | None:
    """What the name of a recipe of `NAMES` or `SMOKE_NAMES` says; None for any other recipe."""
    if recipe not in NAMES and recipe not in SMOKE_NAMES:
        return None
    found = _FACETS.fullmatch(recipe)
    assert found is not None
    method = found["method"]
    if found["smoke"]:
        return Facets(method=method, section=SMOKE)
    if method == "ssd":
        dataset = found["dataset"]
        return Facets(
            method=method,
            backbone="vgg16",
            style="caffe",
            schedule=_SSD_SCHEDULES[dataset],
            dataset=dataset,
            section="ssd" if dataset == "coco" else "ssd_voc",
        )
    usual = "fast_rcnn" if method == "fast_mask_rcnn" else method
    return Facets(
        method=method,
        backbone=found["backbone"],
        style=found["style"] or "pytorch",
        schedule=found["schedule"],
        dataset="coco",
        section="dcn" if found["dcn"] else "gn" if found["gn"] else usual,
    )


def has_published_weights(recipe: str) -> bool:
    """Whether the zoo published weights for a recipe: for all rows but those of caffe style, except SSD."""
    facets = read_facets(recipe)
    return (
        facets is not None and facets.section != SMOKE and (facets.style != "caffe" or facets.method == "ssd")
    )


def proposal_recipe(recipe: str) -> str | None:
    """The recipe whose proposals a Fast R-CNN of the zoo was trained on; None for any other recipe.

    It is the RPN of the same backbone and style, and of schedule 1x whatever the schedule of the detector is
    (`docs/zoo.md`, 1.4).
    """
    facets = read_facets(recipe)
    if facets is None or facets.method not in ("fast_rcnn", "fast_mask_rcnn"):
        return None
    if facets.section == SMOKE:
        return f"{SMOKE}_rpn"
    style = "caffe_" if facets.style == "caffe" else ""
    return f"rpn_{facets.backbone}_{style}fpn_1x"
