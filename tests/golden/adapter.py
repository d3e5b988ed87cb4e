"""Lets the golden checker of the specification drive our detectors.

Run as ``check.py --adapter tests/golden/adapter.py --arch faster_rcnn_r50_fpn rpn_r50_fpn``; the checker says
what each function must return. Its names of architectures are those of recipes without the schedule.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from kubedet_trainer.config import model_options
from kubedet_trainer.models import build_model
from kubedet_trainer.recipes import RECIPES, read_recipe

sys.path.append(str(Path(__file__).resolve().parent.parent))  # the checker knows nothing of our tests
import trainer_builders
from golden import dense_adapter, two_stage_adapter
from golden.checker import GoldenBatch, Meta
from golden.dense_adapter import DenseDetector
from golden.two_stage_adapter import RegionDetector

COCO_CLASSES, VOC_CLASSES = 81, 21
"""With the background."""


def build(arch: str) -> nn.Module:
    recipe = read_recipe(recipe_of(arch))
    model = build_model(
        recipe.model.architecture,
        num_classes=VOC_CLASSES if recipe.evaluation_kind == "voc" else COCO_CLASSES,
        **model_options(recipe.model),
    )
    trainer_builders.sample_in_order(model)
    return model


def recipe_of(arch: str) -> str:
    """The zoo's first recipe of an architecture: ``mask_rcnn_r50_fpn_gn`` has only 2x and 3x ones."""
    name = arch.replace("c3-c5", "c3_c5")
    candidates = [name, *(f"{name}_{schedule}" for schedule in ("1x", "2x", "20e", "3x"))]
    return next(candidate for candidate in candidates if candidate in RECIPES)


def features(model: nn.Module, x: Tensor) -> dict[str, Sequence[Tensor]]:
    if isinstance(model, DenseDetector):
        return dense_adapter.features(model, x)
    return two_stage_adapter.features(_region_detector(model), x)


def proposals(model: nn.Module, x: Tensor, meta: Meta) -> Tensor:
    return two_stage_adapter.proposals(_region_detector(model), x, meta)


def fixed_rois(model: nn.Module, x: Tensor, rois: Tensor) -> dict[str, Tensor | list[Tensor]]:
    return two_stage_adapter.fixed_rois(_region_detector(model), x, rois)


def detect(model: nn.Module, x: Tensor, meta: Meta, proposals: Tensor | None = None) -> dict[str, object]:
    if isinstance(model, DenseDetector):
        return dense_adapter.detect(model, x, meta)
    return two_stage_adapter.detect(_region_detector(model), x, meta, proposals)


def losses(
    model: nn.Module, batch: GoldenBatch, proposals: list[Tensor] | None = None
) -> Mapping[str, Tensor | list[Tensor]]:
    if isinstance(model, DenseDetector):
        return dense_adapter.losses(model, batch)
    return two_stage_adapter.losses(_region_detector(model), batch, proposals)


def _region_detector(model: nn.Module) -> RegionDetector:
    assert isinstance(model, RegionDetector)
    return model
