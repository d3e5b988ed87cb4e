"""Bounds and cross-field rules, as local mode and the reconciler check them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from builders import BROKEN_RULES, make_job, make_manifest, merge
from kubedet_operator.api import validation
from kubedet_operator.api.decoding import InvalidManifest


@pytest.mark.parametrize(
    ("path", "value", "rule"),
    [
        ("worker.replicas", 0, "must be from 1 to 1000"),
        ("worker.replicas", 1001, "must be from 1 to 1000"),
        ("metrics.port", 80, "must be from 1024 to 65535"),
        ("recipe", "Mask RCNN", "must be a name that `kubedet recipes` lists, or module:attribute"),
        ("recipe", "my-package:mine", "or module:attribute"),
        ("recipe", "mine.recipes:", "or module:attribute"),
        ("recipe", "mine:recipes:small", "or module:attribute"),
        ("dataset.storageUri", "http://x", "must be s3://bucket/prefix"),
        ("dataset.storageUri", "synthetic://cats", "synthetic://shapes"),
        ("dataset.val.images", "/abs", "must be a path relative to"),
        ("checkpoint.storageUri", "synthetic://shapes", "must be s3://"),
        ("checkpoint.resume", "auto", "must be Auto, Never"),
        ("pretrained.sha256", "abc", "must be 64 hexadecimal digits"),
        ("worker.sharedMemory", "lots", "must be a quantity"),
        ("worker.resources.limits.cpu", "two", "must be a quantity"),
        ("overrides.a", "x" * 257, "must have at most 256"),
        ("overrides", {str(number): "x" for number in range(65)}, "must have at most 64"),
    ],
)
def test_bounds_are_checked(path: str, value: object, rule: str) -> None:
    valid = {"checkpoint": {"storageUri": "s3://bucket/x"}, "pretrained": {"storageUri": "s3://bucket/w.pth"}}
    *parents, field = path.split(".")
    spec: dict[str, Any] = {field: value}
    for name in reversed(parents):
        spec = {name: spec}
    violations = validation.validate(make_job(**merge(valid, spec)))
    assert [violation.path for violation in violations] == [f"spec.{path}"]
    assert rule in violations[0].rule


@pytest.mark.parametrize("recipe", ["mask_rcnn_r50_fpn_1x", "my_package.recipes:my_faster_rcnn", "A:b"])
def test_recipe_is_a_name_or_an_attribute_of_a_module(recipe: str) -> None:
    assert validation.validate(make_job(recipe=recipe)) == []


def test_items_of_a_keyed_list_are_unique() -> None:
    (violation,) = validation.validate(make_job(worker={"env": [{"name": "A"}, {"name": "A"}]}))
    assert str(violation) == "spec.worker.env[1].name: got 'A', must be unique; remove one"


@pytest.mark.parametrize(("spec", "path"), BROKEN_RULES)
def test_rules_across_fields_are_checked(spec: dict[str, Any], path: str) -> None:
    assert [violation.path for violation in validation.validate(make_job(**spec))] == [path]


def test_every_rule_is_broken_by_some_case_above() -> None:
    broken = {
        violation.rule for spec, _ in BROKEN_RULES for violation in validation.validate(make_job(**spec))
    }
    assert broken == {rule.meaning for rule in validation.RULES}


def test_a_violation_reads_as_one_line() -> None:
    (violation,) = validation.validate(make_job(worker={"replicas": 0}))
    assert str(violation) == "spec.worker.replicas: got 0, must be from 1 to 1000"


def test_a_value_that_is_absent_and_must_be_there_is_named_by_its_own_path() -> None:
    (violation,) = validation.validate(make_job(schedulingPolicy={"gang": "Kueue"}))
    assert str(violation).startswith("spec.schedulingPolicy.queue: absent, gang Kueue must have a queue")


def test_shared_memory_up_to_the_limit_is_fine() -> None:
    worker = {"sharedMemory": "1Gi", "resources": {"limits": {"memory": 1024**3}}}
    assert validation.validate(make_job(worker=worker)) == []


def test_types_bounds_and_rules_are_reported_together() -> None:
    manifest = make_manifest(
        name="Upper",
        recipe=None,
        worker={"replicas": 0, "gpu": 1},
        checkpoint={"storageUri": "s3://bucket/b"},
    )
    manifest["spec"]["checkpoint"] |= {"intervalSeconds": 1, "intervalIterations": 1}
    with pytest.raises(InvalidManifest) as caught:
        validation.load_job(manifest)
    assert {violation.path for violation in caught.value.violations} == {
        "spec.recipe",
        "spec.worker.gpu",
        "spec.worker.replicas",
        "metadata.name",
        "spec.checkpoint",
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("16Gi", 16 * 1024**3),
        ("1500M", 1500000000),
        ("500m", Decimal("0.5")),
        ("1.5Ki", 1536),
        ("2k", 2000),
        ("7", 7),
    ],
)
def test_quantities_are_those_of_kubernetes(text: str, value: object) -> None:
    assert validation.parse_quantity(text) == value
