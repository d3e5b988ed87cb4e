"""A recipe can be printed whole, and restored from what a checkpoint says of it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from kubedet_trainer import config
from kubedet_trainer.config import Recipe
from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.recipes import RECIPES, read_recipe

NAME = "faster_rcnn_r50_fpn_1x"
OVERRIDES = {
    "optimizer.lr": "1e-05",
    "optimizer.clip_norm": "none",
    "schedule.decay_epochs": "",
    "data.scale": "320,240",
    "data.classes": "cat,dog",
    "data.num_proposals": "7",
    "data.normalisation.to_rgb": "false",
    "model.box_head.target_stds": "1,1,2,2",
    "precision": "bf16",
}


def _as_in_manifest(recipe: Recipe) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(config.recipe_to_dict(recipe)))
    return document


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_printed_whole_with_its_figures_under_the_names_of_results(name: str) -> None:
    recipe = read_recipe(name)
    document = config.recipe_to_dict(recipe)

    assert json.loads(json.dumps(document)) == document
    assert document["name"] == name
    assert document["reference"] == recipe.reference
    settings = {field.name for field in dataclasses.fields(Recipe)} - {"published"}
    assert document.keys() == settings | {"reference"}


@pytest.mark.parametrize("name", [NAME, "ssd300_voc", "smoke_cascade_mask_rcnn"])
def test_recipe_is_restored_from_its_document(name: str) -> None:
    recipe = read_recipe(name)

    assert config.restore_recipe(recipe, _as_in_manifest(recipe)) == recipe


def test_settings_of_the_document_win_over_those_of_the_recipe() -> None:
    recipe = read_recipe(NAME)
    changed = config.apply_overrides(recipe, OVERRIDES)

    restored = config.restore_recipe(recipe, _as_in_manifest(changed))

    assert restored == changed != recipe


def test_figures_that_were_corrected_since_make_no_checkpoint_unloadable() -> None:
    recipe = read_recipe(NAME)
    document = _as_in_manifest(config.apply_overrides(recipe, {"seed": "3"}))
    document["reference"] = {"boxAP": 36.5, "withdrawn": 1.0}

    restored = config.restore_recipe(recipe, document)

    assert restored.seed == 3
    assert restored.reference == recipe.reference


def test_name_and_architecture_of_the_document_identify_and_change_nothing() -> None:
    recipe = read_recipe(NAME)
    document = _as_in_manifest(recipe)
    document["name"] = "of_before"
    document["model"]["architecture"] = "of_before"

    assert config.restore_recipe(recipe, document) == recipe


@pytest.mark.parametrize(
    ("part", "field", "message"),
    [
        ("data", "mosaic", "data.mosaic: got '1', must be a field of the recipe"),
        ("model", "architecture_of_tomorrow", "model.architecture_of_tomorrow: got '1', must be a field"),
    ],
)
def test_setting_that_the_recipe_does_not_know_is_refused(part: str, field: str, message: str) -> None:
    document = _as_in_manifest(read_recipe(NAME))
    document[part][field] = 1

    with pytest.raises(InvalidInput, match=message):
        config.restore_recipe(read_recipe(NAME), document)
