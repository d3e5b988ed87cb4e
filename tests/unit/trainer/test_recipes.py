"""The recipes are the zoo's: names, figures, schedules, pixels."""

from __future__ import annotations

import json

import pytest

from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.models import BUILDERS
from kubedet_trainer.recipes import RECIPES, read_recipe
from kubedet_trainer.recipes.published import PUBLISHED

FIGURES = {
    "memory_gb": "memoryGB",
    "train_s_per_iter": "secondsPerIteration",
    "inference_fps": "inferenceFps",
    "box_ap": "boxAP",
    "ar1000": "ar1000",
}


@pytest.fixture(scope="module")
def published(shared):
    rows = json.loads((shared / "spec/model_zoo.json").read_text())["recipes"]
    return {row["recipe"]: row for row in rows}


def test_r50_recipes_of_proposal_networks_and_faster_rcnn_are_those_of_the_zoo(published):
    rows = {
        name
        for name, row in published.items()
        if row["section"] in ("RPN", "Faster R-CNN") and row["backbone"] == "R-50-FPN"
    }

    assert {name for name in RECIPES if not name.startswith("smoke")} == rows


@pytest.mark.parametrize("name", PUBLISHED)
def test_reference_figures_are_the_published_ones(published, name):
    row = published[name]

    assert read_recipe(name).reference == {ours: row[key] for key, ours in FIGURES.items() if key in row}


@pytest.mark.parametrize("name", PUBLISHED)
def test_style_and_schedule_are_those_of_the_row(published, name):
    row, recipe = published[name], read_recipe(name)
    caffe = row["style"] == "caffe"

    assert recipe.model.backbone.style == row["style"]
    assert recipe.data.normalisation.to_rgb is not caffe
    assert (recipe.data.normalisation.std == (1, 1, 1)) is caffe
    assert ("caffe" in recipe.pretrained) is caffe
    expected = {"1x": (12, (8, 11)), "2x": (24, (16, 22))}[row["schedule"]]
    assert (recipe.schedule.epochs, recipe.schedule.decay_epochs) == expected
    assert (recipe.optimizer.lr, recipe.global_batch) == (0.02, 16)
    assert recipe.evaluation_kind == ("proposal" if row["method"] == "rpn" else "bbox")


def test_every_architecture_has_a_smoke_recipe_for_tests_to_reach_it():
    smoke = {make().model.architecture for name, make in RECIPES.items() if name.startswith("smoke")}

    assert smoke == set(BUILDERS)


def test_smoke_recipes_are_compared_with_nothing():
    assert not read_recipe("smoke_faster_rcnn").reference


def test_unknown_recipe_is_refused_with_the_nearest():
    with pytest.raises(
        InvalidInput, match=r"got .faster_rcnn_r50_fpn_1., .*Did you mean .faster_rcnn_r50_fpn_1x."
    ):
        read_recipe("faster_rcnn_r50_fpn_1")
