"""Every recipe's detector has the parameters of the published checkpoints, name by name."""

from __future__ import annotations

import functools
import math
import re

import pytest
import torch

import golden_files
from kubedet_trainer.config import DetectorOptions
from kubedet_trainer.models.options.task import Task
from kubedet_trainer.recipes import RECIPES, read_recipe

CLASSES = {"bbox": 81, "segm": 81, "proposal": 81, "voc": 21}
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
PUBLISHED = [name for name in RECIPES if not name.startswith("smoke")]


def _architecture(recipe_name: str) -> str:
    """The recipe's name without style and schedule; both leave the parameters as they are."""
    return re.sub(r"_(1x|2x|3x|20e)$", "", recipe_name.replace("_caffe", ""))


def _entries(recipe_name: str) -> dict[str, tuple[int, ...]]:
    recipe = read_recipe(recipe_name)
    return _entries_of(recipe.model, num_classes=CLASSES[recipe.evaluation_kind])


@functools.cache  # recipes that differ in their schedule share the model
def _entries_of(options: DetectorOptions, *, num_classes: int) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = options.build(Task(num_classes=num_classes))
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def test_recipes_and_published_architectures_are_the_same_set() -> None:
    listed = golden_files.list_state_dicts()

    assert len(PUBLISHED) == 95
    assert sorted({_architecture(name) for name in PUBLISHED}) == listed
    assert len(listed) == 48


@pytest.mark.parametrize("recipe_name", PUBLISHED)
def test_parameters_are_those_of_the_published_checkpoint(recipe_name: str) -> None:
    assert _entries(recipe_name) == golden_files.read_state_dict(_architecture(recipe_name))


@pytest.mark.parametrize(
    ("recipe_name", "count"),
    [
        ("faster_rcnn_r50_fpn_1x", 41_757_156),
        ("mask_rcnn_r50_fpn_gn_2x", 45_715_509),
        ("retinanet_x101_64x4d_fpn_1x", 95_866_932),
        ("faster_rcnn_mdpool_r50_fpn_1x", 149_326_896),
        ("cascade_mask_rcnn_dconv_c3_c5_r101_fpn_1x", 97_603_677),
        ("ssd512_voc", 27_188_676),
    ],
)
def test_parameter_counts_are_the_published_ones(recipe_name: str, count: int) -> None:
    entries = _entries(recipe_name)

    assert sum(math.prod(shape) for key, shape in entries.items() if not key.endswith(STATISTICS)) == count
