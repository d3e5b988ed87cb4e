"""What a ModelZoo may ask for, and which rows that is."""

from __future__ import annotations

from typing import Any

import pytest

from kubedet_operator.api import names, schema
from kubedet_operator.api.zoo_validation import ZOO_RULES
from kubedet_operator.decision.zoo.facts import ParsedZoo, parse_zoo
from kubedet_trainer.contract import catalogue
from zoo_simulation import make_zoo


def _parse(**spec: Any) -> ParsedZoo:
    return parse_zoo(make_zoo(**spec))


def _recipes(**rows: Any) -> list[str]:
    return [row.recipe for row in _parse(rows={"recipes": None, **rows}).rows]


def test_the_whole_zoo_can_be_selected() -> None:
    sections = ["rpn", "faster_rcnn", "mask_rcnn", "fast_rcnn", "retinanet", "cascade_rcnn"]
    sections += ["cascade_mask_rcnn", "ssd", "ssd_voc", "gn", "dcn"]
    assert _recipes(select=[{"sections": sections}]) == list(catalogue.NAMES)


def test_a_selection_needs_every_field_and_selections_add_up() -> None:
    selected = _recipes(
        select=[
            {
                "methods": ["rpn", "retinanet"],
                "backbones": ["r50"],
                "styles": ["pytorch"],
                "schedules": ["1x"],
            },
            {"datasets": ["voc"]},
        ],
        recipes=["my.recipes:careful", "smoke_ssd"],
        exclude=["ssd512_voc"],
    )
    assert selected == [
        "rpn_r50_fpn_1x",
        "retinanet_r50_fpn_1x",
        "ssd300_voc",
        "smoke_ssd",
        "my.recipes:careful",
    ]


def test_small_recipes_are_selected_by_their_section_alone() -> None:
    assert _recipes(select=[{"methods": ["mask_rcnn"], "sections": ["smoke"]}]) == ["smoke_mask_rcnn"]
    assert "smoke_mask_rcnn" not in _recipes(select=[{"methods": ["mask_rcnn"]}])


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            {"rows": {"recipes": []}},
            "spec.rows: absent, must have recipes or select; otherwise the table is empty",
        ),
        (
            {"rows": {"recipes": ["retinanet_r50_fpn_1"]}},
            "spec.rows.recipes[0]: got 'retinanet_r50_fpn_1', must be a name that `kubedet recipes` lists, "
            "or module:attribute. Did you mean 'retinanet_r50_fpn_1x'?",
        ),
        (
            {"rows": {"select": [{"methods": ["ssd"], "backbones": ["r50"]}]}},
            "spec.rows.select[0]: got {'methods': ['ssd'], 'backbones': ['r50']}, must select at least one "
            "recipe",
        ),
        (
            {"rows": {"exclude": ["retinanet_r50_fpn_1x"]}},
            "spec.rows: got 'no recipe', must select at least one recipe",
        ),
        (
            {"changes": [{"recipe": "retinanet_r50_fpn_2x", "spec": {}}]},
            "spec.changes[0].recipe: got 'retinanet_r50_fpn_2x', must be a row of the table. "
            "Did you mean 'retinanet_r50_fpn_1x'?",
        ),
        (
            {"template": {"spec": {"recipe": "ssd300_coco"}}},
            "spec.template.spec.recipe: got 'ssd300_coco', must not be set: spec.rows has the recipes; "
            "remove it",
        ),
        (
            {"measure": "Published", "template": {"spec": {"task": "Train"}}},
            "spec.template.spec.task: got 'Train', must not be set: spec.measure says it; remove it",
        ),
        (
            {"measure": "Published", "rows": {"recipes": ["mask_rcnn_r50_caffe_fpn_1x"]}},
            "spec.rows.recipes[0]: got 'mask_rcnn_r50_caffe_fpn_1x', must have weights to measure, and the "
            "zoo published none for it; set pretrained for it in spec.changes, or remove it",
        ),
        (
            {"measure": "Published", "rows": {"select": [{"styles": ["caffe"], "methods": ["rpn"]}]}},
            "spec.rows.select[0]: got {'methods': ['rpn'], 'styles': ['caffe']}, must select at least one "
            "recipe with published weights",
        ),
        (
            {"measure": "Published", "template": {"spec": {"elasticPolicy": {"maxReplicas": 2}}}},
            "spec.template.spec.elasticPolicy: got 'an elasticPolicy', a job with task Measure must keep its "
            "number of workers, because it has no checkpoint to continue from; remove elasticPolicy",
        ),
        (
            {"template": {"spec": {"worker": {"replica": 2}}}},
            "spec.template.spec.worker.replica: got 2, there is no such field. Did you mean 'replicas'?",
        ),
        (
            {"changes": [{"recipe": "retinanet_r50_fpn_1x", "spec": {"elasticPolicy": {"maxReplicas": 0}}}]},
            "spec.changes[0].spec.elasticPolicy.maxReplicas: got 0, must be from 1 to 1000",
        ),
        (
            {"rows": {"recipes": ["fast_rcnn_r50_fpn_2x"]}},
            "spec.rows: got 'fast_rcnn_r50_fpn_2x', must have rpn_r50_fpn_1x next to it, whose proposals it "
            "needs; or set dataset.proposals for it",
        ),
        (
            {
                "rows": {"recipes": ["smoke_rpn", "smoke_fast_rcnn"]},
                "template": {"spec": {"checkpoint": None}},
            },
            "spec.template.spec.checkpoint: absent, must be set: smoke_rpn leaves its proposals there for "
            "other rows",
        ),
        (
            {"rows": {"recipes": [f"m:r{number}" for number in range(101)]}, "repeats": 10},
            "spec.rows: got '1010 trainings', must be at most 1000; use several zoos",
        ),
        (
            {"changes": [{"recipe": "retinanet_r50_fpn_1x", "repeats": 11}]},
            "spec.changes[0].repeats: got 11, must be from 1 to 10",
        ),
    ],
)
def test_what_a_zoo_cannot_train_is_named(spec: dict[str, Any], expected: str) -> None:
    parsed = _parse(**spec)
    assert [str(violation) for violation in parsed.violations] == [expected]
    assert parsed.rows == ()


def test_names_of_jobs_fit_and_differ() -> None:
    recipes = [*catalogue.NAMES, "my.recipes:Careful", "my.recipes:careful", "my_recipes:careful"]
    for zoo in ("zoo", "z" * 48):
        found = [names.row_job_name(zoo, recipe, seed) for recipe in recipes for seed in (0, 1)]
        assert len(set(found)) == len(found)
        assert max(map(len, found)) <= names.MAX_JOB_NAME_LENGTH
    assert names.row_job_name("zoo", "ssd300_coco", 0) == "zoo-ssd300-coco"
    assert names.row_job_name("zoo", "ssd300_coco", 2) == "zoo-ssd300-coco-s2"


def test_rules_of_jobs_hold_in_the_template_and_those_of_a_zoo_have_their_place() -> None:
    spec = schema.build_schema(schema.ZOO)["properties"]["spec"]["properties"]
    template = spec["template"]["properties"]["spec"]
    assert not {"recipe", "task"} & template["properties"].keys()
    assert template["required"] == ["dataset"]
    job = schema.build_schema()["properties"]["spec"]
    assert template["x-kubernetes-validations"] == job["x-kubernetes-validations"]
    assert [rule["message"] for rule in spec["rows"]["x-kubernetes-validations"]] == [ZOO_RULES[1].meaning]


def test_the_hash_is_that_of_what_a_row_means_and_stays_the_same_in_later_versions() -> None:
    (row,) = _parse().rows
    assert row.hash == _parse(template={"spec": {"dataset": {"format": "COCO", "train": {}}}}).rows[0].hash
    assert row.hash != _parse(template={"spec": {"dataset": {"val": {"images": "other"}}}}).rows[0].hash
    assert row.hash == "3bb87b3531b14146"


def test_published_rows_are_measured_and_mean_something_else_than_trained_ones() -> None:
    (trained,), (measured,) = _parse().rows, _parse(measure="Published").rows
    assert "task" not in trained.spec
    assert measured.spec["task"] == "Measure"
    assert measured.hash != trained.hash


def test_only_rows_with_weights_are_selected_to_be_measured() -> None:
    def select(**spec: Any) -> list[str]:
        rows = {"recipes": None, "select": [{"methods": ["rpn"], "backbones": ["r50"]}]}
        return [row.recipe for row in _parse(measure="Published", rows=rows, **spec).rows]

    published = ["rpn_r50_fpn_1x", "rpn_r50_fpn_2x"]
    assert select() == published
    own = {"recipe": "rpn_r50_caffe_fpn_1x", "spec": {"pretrained": {"storageUri": "s3://weights/rpn.pth"}}}
    assert select(changes=[own]) == ["rpn_r50_caffe_fpn_1x", *published]


def test_the_proposals_of_a_measured_rpn_are_those_that_a_measured_fast_rcnn_takes() -> None:
    rpn, fast = _parse(measure="Published", rows={"recipes": ["rpn_r50_fpn_1x", "fast_rcnn_r50_fpn_2x"]}).rows
    assert rpn.writes_proposals
    assert fast.source == rpn.recipe
