"""Lets the golden checker of the specification drive our detectors.

Run as ``check.py --adapter tests/golden/adapter.py --arch faster_rcnn_r50_fpn rpn_r50_fpn``; the checker says
what each function must return. Its names of architectures are those of recipes without the schedule.
"""

from __future__ import annotations

import sys
from pathlib import Path

from kubedet_trainer.config import model_options
from kubedet_trainer.models import build_model
from kubedet_trainer.recipes import RECIPES, read_recipe

sys.path.append(str(Path(__file__).resolve().parent))  # the checker knows nothing of our tests
sys.path.append(str(Path(__file__).resolve().parent.parent))
import dense_adapter
import two_stage_adapter

import trainer_builders

COCO_CLASSES, VOC_CLASSES = 81, 21
"""With the background."""


def build(arch):
    recipe = read_recipe(recipe_of(arch))
    model = build_model(
        recipe.model.architecture,
        num_classes=VOC_CLASSES if recipe.evaluation_kind == "voc" else COCO_CLASSES,
        **model_options(recipe.model),
    )
    trainer_builders.sample_in_order(model)
    return model


def recipe_of(arch):
    """The zoo's first recipe of an architecture: ``mask_rcnn_r50_fpn_gn`` has only 2x and 3x ones."""
    name = arch.replace("c3-c5", "c3_c5")
    candidates = [name, *(f"{name}_{schedule}" for schedule in ("1x", "2x", "20e", "3x"))]
    return next(candidate for candidate in candidates if candidate in RECIPES)


def features(model, x):
    return _family(model).features(model, x)


def proposals(model, x, meta):
    return two_stage_adapter.proposals(model, x, meta)


def fixed_rois(model, x, rois):
    return two_stage_adapter.fixed_rois(model, x, rois)


def detect(model, x, meta, proposals=None):
    return _family(model).detect(model, x, meta, proposals)


def losses(model, batch, proposals=None):
    return _family(model).losses(model, batch, proposals)


def _family(model):
    return two_stage_adapter if hasattr(model, "rpn_head") else dense_adapter
