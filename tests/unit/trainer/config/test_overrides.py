"""Recipes refuse what cannot work, overrides are strict, and everything can be printed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field, replace

import pytest

from kubedet_trainer import config
from kubedet_trainer.config import DetectorOptions
from kubedet_trainer.config.fields import fixed
from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.recipes import read_recipe
from kubedet_trainer.recipes.rpn import RpnOptions

RECIPE = read_recipe("faster_rcnn_r50_fpn_1x")


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("optimizer.lr", "0.01", 0.01),
        ("optimizer.clip_norm", "none", None),
        ("optimizer.clip_norm", "10", 10.0),
        ("schedule.epochs", "3", 3),
        ("schedule.decay_epochs", "4, 5", (4, 5)),
        ("schedule.decay_epochs", "", ()),
        ("data.scale", "(320,240)", (320, 240)),
        ("data.normalisation.to_rgb", "False", False),
        ("model.backbone.norm_eval", "true", True),
        ("model.box_head.target_stds", "1,1,2,2", (1.0, 1.0, 2.0, 2.0)),
        ("precision", "bf16", "bf16"),
        ("pretrained", "file:///weights.pth", "file:///weights.pth"),
        ("seed", "7", 7),
    ],
)
def test_override_is_parsed_by_the_type_of_its_field(field: str, text: str, value: object) -> None:
    changed = config.apply_overrides(RECIPE, {field: text})

    for name in field.split("."):
        changed = getattr(changed, name)
    assert changed == value
    assert type(changed) is type(value)


def test_override_leaves_everything_else_as_it_was() -> None:
    changed = config.apply_overrides(RECIPE, {"optimizer.lr": "0.01", "seed": "3"})
    restored = config.apply_overrides(changed, {"optimizer.lr": "0.02", "seed": "0"})

    assert changed != RECIPE
    assert restored == RECIPE


def test_values_that_fit_only_each_other_can_be_given_in_any_order() -> None:
    overrides = {"model.rpn_head.negative_iou": "0.8", "model.rpn_head.positive_iou": "0.9"}

    changed = config.apply_overrides(RECIPE, overrides)

    assert isinstance(changed.model, RpnOptions)
    assert changed.model.rpn_head.negative_iou == 0.8


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"optimizer.learning_rate": "1"},
            "optimizer.learning_rate: got '1', must be a field of the recipe. Did you mean 'optimizer.lr'",
        ),
        ({"optimizer": "1"}, "optimizer: got '1', must be a field of the recipe"),
        ({"mosaic": "1"}, "mosaic: got '1', must be a field of the recipe. `kubedet explain spec.overrides`"),
        ({"name": "other"}, "name: got 'other', must be a field of the recipe"),
        ({"model.architecture": "rpn"}, "model.architecture: got 'rpn', must be a field of the recipe"),
        ({"optimizer.lr": "fast"}, "optimizer.lr: got 'fast', must be a finite number"),
        ({"optimizer.lr": "nan"}, "optimizer.lr: got nan, must be a finite number"),
        ({"schedule.epochs": "1.5"}, "schedule.epochs: got '1.5', must be a whole number"),
        ({"data.scale": "800"}, "data.scale: got '800', must be 2 values separated by commas"),
        ({"data.normalisation.to_rgb": "yes"}, "must be true or false"),
        (
            {"precision": "bf61"},
            "precision: got 'bf61', must be one of fp32, tf32, bf16, fp16. Did you mean 'bf16'",
        ),
        ({"optimizer.lr": "-1"}, "optimizer.lr: got -1.0, must be > 0"),
        ({"optimizer.momentum": "1"}, "optimizer.momentum: got 1.0, must be >= 0 and < 1"),
        ({"schedule.decay_epochs": "8,4"}, r"schedule.decay_epochs: got \(8, 4\), must be rising"),
        ({"global_batch": "15"}, "global_batch: got 15, must be a multiple of data.images_per_process = 2"),
        ({"data.scale": "100,200"}, "data.scale: got .*longest, shortest"),
        ({"data.flip_probability": "2"}, "data.flip_probability: got 2.0, must be from 0 to 1"),
        ({"data.num_workers": "-1"}, "data.num_workers: got -1, must be >= 0"),
        ({"model.backbone.stage_blocks": "3,4"}, "model.backbone.stage_blocks: got '3,4', must be 4 values"),
        ({"model.backbone.norm": "gn", "model.backbone.norm_groups": "7"}, "norm_groups: got 7, must divide"),
        ({"model.neck.num_levels": "3"}, "model.neck.num_levels: got 3, must be >= 4"),
        ({"model.rpn_head.negative_iou": "0.9"}, "negative_iou: got 0.9, must be <= positive_iou = 0.7"),
        ({"model.rpn_head.anchor_scales": ""}, r"anchor_scales: got \(\), must be numbers > 0"),
        ({"model.rpn_head.nms_pre": "0"}, "model.rpn_head.nms_pre: got 0, must be >= 1"),
        ({"model.box_head.nms_iou": "1.2"}, "model.box_head.nms_iou: got 1.2, must be from 0 to 1"),
    ],
)
def test_wrong_override_is_refused_with_path_value_and_rule(overrides: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        config.apply_overrides(RECIPE, overrides)


def test_field_of_a_type_that_text_cannot_give_is_refused() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Options(DetectorOptions):
        architecture: str = fixed(default="own")
        labels: dict[str, int] = field(default_factory=dict)

    recipe = replace(RECIPE, model=Options(labels={"cat": 1}))

    with pytest.raises(InvalidInput, match=r"model\.labels: got 'cat', must be set where the recipe is made"):
        config.apply_overrides(recipe, {"model.labels": "cat"})


def test_recipes_and_overrides_need_no_torch() -> None:
    script = (
        "import sys, kubedet_trainer.recipes as r, kubedet_trainer.config as c;"
        "c.recipe_to_dict(c.apply_overrides(r.read_recipe('smoke_rpn'), {'seed': '1'}));"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
