"""Manifests become typed jobs, strictly."""

from __future__ import annotations

from typing import Any

import pytest

from builders import make_manifest
from kubedet_operator.api import decoding, types
from kubedet_operator.api.decoding import InvalidManifest
from kubedet_operator.api.status import Condition, DetectionJobStatus, FailureRecord, dump_status
from kubedet_trainer import contract


def _violations(manifest: dict[str, Any]) -> list[str]:
    with pytest.raises(InvalidManifest) as caught:
        types.parse_job(manifest)
    return [str(violation) for violation in caught.value.violations]


def test_a_short_manifest_gets_the_defaults() -> None:
    job = types.parse_job(make_manifest(worker={"gpus": None}))
    assert job.metadata.name == "demo"
    assert job.spec.worker.gpus == 8
    assert job.spec.worker.replicas == 1
    assert job.spec.dataset.val.images is None
    assert job.spec.backoffLimit == 3
    assert job.spec.checkpoint is None


def test_null_counts_as_absent() -> None:
    manifest = make_manifest()
    manifest["spec"]["worker"]["replicas"] = None
    assert types.parse_job(manifest).spec.worker.replicas == 1


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"recpe": "x"}, "spec.recpe: got 'x', there is no such field. Did you mean 'recipe'?"),
        (
            {"worker": {"replica": 2}},
            "spec.worker.replica: got 2, there is no such field. Did you mean 'replicas'?",
        ),
        ({"recipe": None}, "spec.recipe: absent, must be set"),
        ({"worker": {"replicas": "2"}}, "spec.worker.replicas: got '2', must be a whole number"),
        ({"worker": {"replicas": True}}, "spec.worker.replicas: got True, must be a whole number"),
        ({"benchmark": {"enabled": "no"}}, "spec.benchmark.enabled: got 'no', must be true or false"),
        (
            {"overrides": {"optimizer.lr": 0.01}},
            "spec.overrides.optimizer.lr: got 0.01, must be a string; put it in quotes",
        ),
        ({"dataset": {"format": "KITTI"}}, "spec.dataset.format: got 'KITTI', must be COCO or VOC or YOLO"),
        ({"worker": {"env": {"A": "b"}}}, "spec.worker.env: got a value that may be secret, must be a list"),
        (
            {"worker": {"env": [{"name": 3}]}},
            "spec.worker.env[0].name: got 3, must be a string; put it in quotes",
        ),
        ({"checkpoint": "s3://x"}, "spec.checkpoint: got 's3://x', must be an object"),
    ],
)
def test_what_cannot_be_read_is_named(spec: dict[str, Any], expected: str) -> None:
    assert _violations(make_manifest(**spec)) == [expected]


def test_everything_wrong_is_listed_at_once() -> None:
    found = _violations({"kind": "Job", "metadata": {"name": "x"}, "spec": {"worker": 3, "foo": 1}})
    assert [line.partition(":")[0] for line in found] == [
        "apiVersion",
        "kind",
        "spec.foo",
        "spec.recipe",
        "spec.dataset",
        "spec.worker",
    ]


def test_other_writers_fields_of_metadata_and_status_are_passed_over() -> None:
    manifest = make_manifest()
    manifest["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    manifest["status"] = {"phase": "Running", "invented": 1}
    assert types.parse_job(manifest).status.phase == "Running"


def test_quantities_may_be_numbers() -> None:
    job = types.parse_job(make_manifest(worker={"resources": {"limits": {"cpu": 2, "memory": "4Gi"}}}))
    assert job.spec.worker.resources.limits == {"cpu": "2", "memory": "4Gi"}


def test_a_status_survives_the_way_to_the_api_and_back() -> None:
    status = DetectionJobStatus(
        observedGeneration=2,
        conditions=(
            Condition(
                type="Running",
                status="True",
                reason="WorkersRunning",
                lastTransitionTime="2026-01-01T00:00:00Z",
            ),
        ),
        lastFailure=FailureRecord(
            time="2026-01-01T00:00:00Z", class_="Application", reason="Killed", exitCode=137
        ),
        progress=contract.Progress(stage=contract.Stage.TRAINING, iteration=3, totalIterations=9),
        results=contract.Results(boxAP=37.3, metrics=[{"name": "boxAP50", "value": 58.1}]),
    )
    document = dump_status(status)
    assert document["lastFailure"]["class"] == "Application"
    assert document["progress"]["stage"] == "Training"
    assert "completionTime" not in document
    found: list[decoding.Violation] = []
    again = decoding.decode(DetectionJobStatus, document, path="status", found=found)
    assert not found
    assert again == status


def test_a_whole_number_may_be_written_as_a_float_as_the_api_server_allows() -> None:
    replicas = types.parse_job(make_manifest(worker={"replicas": 2.0})).spec.worker.replicas
    assert (replicas, type(replicas)) == (2, int)
    assert _violations(make_manifest(worker={"replicas": 2.5})) == [
        "spec.worker.replicas: got 2.5, must be a whole number"
    ]
