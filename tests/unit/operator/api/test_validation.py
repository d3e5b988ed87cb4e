"""Bounds and cross-field rules, as local mode and the reconciler check them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from builders import BROKEN_RULES, make_job, make_manifest, merge
from kubedet_operator.api import validation
from kubedet_operator.api.decoding import InvalidManifest
from kubedet_operator.api.fields import parse_quantity
from kubedet_operator.children.children import build_children
from kubedet_operator.settings import OperatorSettings


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
        ("worker.sharedMemory", -5, "must be a quantity"),
        ("worker.resources.limits.cpu", -1, "must be a quantity"),
        ("dataset.endpoint", "http://[::1", "must be https://host:port"),
        ("dataset.endpoint", "http://user:pw@host", "without a user"),
        ("dataset.endpoint", "http://host\x00", "must be https://host:port"),
        ("weightsMirror", "https://user:pw@host/weights", "without a user"),
        ("pretrained.storageUri", "https://token@host/w.pth", "without a user"),
        ("checkpoint.storageUri", "s3://bucket/\x07", "must be s3://"),
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


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("template", {"spec": "text"}, "template.spec: got a text, must be an object"),
        ("template", {"spec": [1]}, "template.spec: got a list, must be an object"),
        ("template", {"spec": {"containers": [None]}}, "containers[0]: got null, must be an object"),
        ("template", {"spec": {"containers": [1]}}, "containers[0]: got a number, must be an object"),
        ("template", {"spec": {"containers": [{"name": {}}]}}, "name: got an object, must be a string"),
        ("template", {"spec": {"volumes": {"name": "x"}}}, "volumes: got an object, must be a list"),
        ("template", {"spec": {"noSuchField": 1}}, "noSuchField: got a number, there is no such field"),
        ("template", {"spec": {"nodeSelektor": {}}}, "Did you mean 'nodeSelector'?"),
        ("template", {"metadata": {"resourceVersion": "1"}}, "resourceVersion: got a text, there is no such"),
        ("template", {"metadata": {"labels": {"a": 1}}}, "labels.a: got a number, must be a string"),
        ("template", {"spec": {"initContainers": [{}] * 17}}, "got '17 items', must have at most 16"),
        ("affinity", "text", "spec.worker.affinity: got 'text', must be an object"),
        ("affinity", {"nodeAffinity": []}, "affinity.nodeAffinity: got a list, must be an object"),
        ("env", [{"name": "A", "valueFrom": {"secret": {}}}], "Did you mean 'secretKeyRef'?"),
    ],
)
def test_what_goes_into_a_pod_has_the_shape_that_pods_have(part: str, value: Any, said: str) -> None:
    with pytest.raises(InvalidManifest) as caught:
        validation.load_job(make_manifest(worker={part: value}))
    (violation,) = caught.value.violations
    assert said in str(violation)


@pytest.mark.parametrize(
    "template",
    [
        {"spec": {"containers": None, "tolerations": None}, "metadata": None},
        {"spec": {"containers": [{"name": "trainer", "env": None, "resources": {"limits": {"cpu": 2}}}]}},
        {"metadata": {"finalizers": ["a.dev/x"]}, "spec": {"terminationGracePeriodSeconds": 2**62}},
    ],
)
def test_whatever_passes_can_be_built(template: dict[str, Any]) -> None:
    job = validation.load_job(make_manifest(worker={"replicas": 2, "gpus": 0, "template": template}))
    pods = [
        child
        for child in build_children(job, attempt=0, settings=OperatorSettings())
        if child["kind"] == "Pod"
    ]
    assert [pod["spec"]["containers"][0]["name"] for pod in pods] == ["trainer"] * 3
    assert all(pod["spec"]["containers"][0]["env"] for pod in pods)


def test_a_value_that_may_be_secret_is_not_shown() -> None:
    worker = {"env": [{"name": "A", "value": 12345}], "template": {"spec": {"hostname": 67890}}}
    manifest = make_manifest(worker=worker, weightsMirror="https://ann:hunter2@host")
    with pytest.raises(InvalidManifest) as caught:
        validation.load_job(manifest)
    said = str(caught.value)
    assert "spec.worker.env[0].value: got a value that may be secret, must be a string" in said
    assert "spec.worker.template.spec.hostname: got a number, must be a string" in said
    assert "spec.weightsMirror: got a text with @, must be https://host/path without a user" in said
    assert not any(secret in said for secret in ("12345", "67890", "hunter2"))


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"serviceAccountName": "kubedet-operator"}, "serviceAccountName"),
        ({"serviceAccount": "kubedet-operator"}, "serviceAccount"),
    ],
)
def test_no_worker_runs_as_the_operator(spec: dict[str, str], path: str) -> None:
    job = make_job(namespace="kubedet", worker={"template": {"spec": spec}})
    (violation,) = validation.check_account(job, "kubedet/kubedet-operator")
    assert str(violation) == (
        f"spec.worker.template.spec.{path}: got 'kubedet-operator', "
        "must not be the operator's own service account; create one for the job"
    )
    assert validation.check_account(job, "elsewhere/kubedet-operator") == []
    assert validation.check_account(job, "kubedet/default") == []
    assert validation.check_account(job, "") == []


def test_a_job_without_an_account_does_not_get_the_operator_s_either() -> None:
    assert validation.check_account(make_job(namespace="kubedet"), "kubedet/default") != []


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
    assert parse_quantity(text) == value
