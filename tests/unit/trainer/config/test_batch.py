"""How the ranks share the images of a step, and how many they take at a time."""

from __future__ import annotations

import pytest

from kubedet_trainer import config
from kubedet_trainer.config import plan_batch
from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.recipes import read_recipe


@pytest.mark.parametrize(
    ("world_size", "most", "images", "steps"),
    [
        (1, 16, 16, 1),
        (1, 100, 16, 1),
        (1, 7, 4, 4),
        (1, 1, 1, 16),
        (1, 0, 1, 16),
        (2, 100, 8, 1),
        (8, 100, 2, 1),
        (8, 1, 1, 2),
        (3, 100, 6, 1),
        (3, 5, 3, 2),
    ],
)
def test_a_rank_takes_as_many_images_as_fit_and_the_step_stays(
    world_size: int, most: int, images: int, steps: int
) -> None:
    plan = plan_batch(global_batch=16, images_per_process=2, world_size=world_size)
    filled = plan.filling(most)
    assert (filled.images_per_pass, filled.accumulation_steps) == (images, steps)
    assert (filled.global_batch, filled.lr_scale) == (plan.global_batch, plan.lr_scale)
    assert images * steps * world_size == plan.global_batch


def test_auto_leaves_the_recipes_own_number_known() -> None:
    own = read_recipe("ssd300_coco")
    left = config.apply_overrides(own, {"data.images_per_process": "auto"})
    assert left.data.fills_memory
    assert left.data.images_per_process == own.data.images_per_process == 8
    assert not config.apply_overrides(left, {"data.images_per_process": "4"}).data.fills_memory


def test_auto_survives_the_manifest_of_a_checkpoint() -> None:
    own = read_recipe("ssd300_coco")
    left = config.apply_overrides(own, {"data.images_per_process": "auto"})
    document = config.recipe_to_dict(left)
    assert document["data"]["images_per_process"] == "auto"
    assert config.restore_recipe(own, document) == left
    assert config.restore_recipe(left, config.recipe_to_dict(own)) == own


@pytest.mark.parametrize("field", ["data.num_workers", "global_batch"])
def test_other_fields_cannot_be_left_to_the_machine(field: str) -> None:
    with pytest.raises(InvalidInput, match=rf"{field}: got 'auto', must be a whole number"):
        config.apply_overrides(read_recipe("ssd300_coco"), {field: "auto"})
