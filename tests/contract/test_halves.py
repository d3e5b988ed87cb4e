"""Both halves agree: what the operator writes, the trainer reads; what the trainer ends with, both know."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from click.testing import CliRunner

from builders import UID, make_job
from kubedet_operator.api import schema, validation
from kubedet_operator.api.zoo import Selection
from kubedet_operator.children.children import build_children
from kubedet_operator.commands.jobs import render
from kubedet_operator.settings import OperatorSettings
from kubedet_trainer import contract, errors
from kubedet_trainer.contract import (
    BatchPolicy,
    Environment,
    ExitCode,
    FailureClass,
    ReportedCheckpoint,
    catalogue,
    failure_class,
)
from kubedet_trainer.errors import UsageError
from kubedet_trainer.recipes import read_recipe
from kubedet_trainer.recipes.catalogue import Entry, select_entries
from kubedet_trainer.recipes.published_files import has_published_file
from kubedet_trainer.settings import RunSettings, StoreCredentials, read_settings

ROOT = Path(__file__).resolve().parent.parent.parent
SECRETS = {"accessKey": "access", "secretKey": "secret", "endpoint": "https://secret:1", "ca.crt": "PEM"}
EVERYTHING: dict[str, Any] = {
    "overrides": {"optimizer.lr": "0.01"},
    "pretrained": {"storageUri": "pvc://models/r50.pth", "sha256": "a" * 64},
    "weightsMirror": "https://mirror.example/zoo",
    "dataset": {
        "storageUri": "pvc://voc/all",
        "format": "VOC",
        "train": {"images": "photographs", "annotations": "lists/train.txt"},
        "val": {"images": "photographs", "annotations": "lists/val.txt"},
        "test": {"images": "others", "annotations": "lists/test.txt"},
        "proposals": {"storageUri": "pvc://proposals/rpn", "secretRef": {"name": "zoo"}},
        "secretRef": {"name": "minio"},
    },
    "worker": {"replicas": 2, "gpus": 4, "procsPerReplica": 2, "terminationGracePeriodSeconds": 60},
    "checkpoint": {
        "storageUri": "s3://checkpoints/x",
        "endpoint": "https://minio:9000",
        "secretRef": {"name": "minio"},
        "intervalIterations": 7,
        "keepLast": 5,
        "keepBest": {"metric": "maskAP", "count": 2},
        "saveDeadlineSeconds": 60,
        "resume": "Never",
    },
    "elasticPolicy": {"minReplicas": 2, "maxReplicas": 4, "batch": "ScaleLearningRate"},
    "failurePolicy": {"hangTimeoutSeconds": 90, "hangMedianSteps": 50},
    "writeProposals": True,
    "evaluation": {"everyEpochs": 2, "stopAfter": 3, "report": "Best"},
    "benchmark": {"images": 50, "iterations": 70},
    "metrics": {"port": 9200},
}


def _environment(**spec: Any) -> dict[str, str]:
    """The environment of the last worker's container, references resolved."""
    cause = "PodsFailed: node gpu-7 is lost"
    pod = build_children(make_job(**spec), attempt=3, settings=OperatorSettings(), cause=cause)[-1]
    return {variable["name"]: _value(variable) for variable in pod["spec"]["containers"][0]["env"]}


def _value(variable: dict[str, Any]) -> str:
    source = variable.get("valueFrom")
    if source is None:
        return str(variable["value"])
    if "fieldRef" in source:
        return "10.0.0.7"
    return SECRETS[source["secretKeyRef"]["key"]]


def test_the_trainer_reads_every_field_that_the_operator_writes() -> None:
    minio = {"access_key": "access", "secret_key": "secret", "ca": "PEM"}
    settings = read_settings(_environment(**EVERYTHING))
    assert settings == RunSettings(
        recipe="smoke_faster_rcnn",
        job_name="demo",
        overrides={"optimizer.lr": "0.01"},
        pretrained_uri="file:///data/pretrained/r50.pth",
        pretrained_sha256="a" * 64,
        weights_mirror="https://mirror.example/zoo",
        dataset=dataclasses.replace(
            settings.dataset,
            uri="file:///data/dataset/all",
            format="VOC",
            train_images="photographs",
            train_annotations="lists/train.txt",
            val_images="photographs",
            val_annotations="lists/val.txt",
            test_images="others",
            test_annotations="lists/test.txt",
            proposals_uri="file:///data/proposals/rpn",
            proposals_credentials=StoreCredentials(endpoint="https://secret:1", **minio),
            credentials=StoreCredentials(endpoint="https://secret:1", **minio),
        ),
        checkpoint=dataclasses.replace(
            settings.checkpoint,
            uri="s3://checkpoints/x",
            credentials=StoreCredentials(endpoint="https://minio:9000", **minio),
            interval_iterations=7,
            keep_last=5,
            keep_best_metric="maskAP",
            keep_best_count=2,
            save_deadline_seconds=60,
            resume="Never",
        ),
        write_proposals=True,
        evaluate_every_epochs=2,
        stop_after=3,
        report=ReportedCheckpoint.BEST,
        benchmark_images=50,
        benchmark_iterations=70,
        min_replicas=2,
        max_replicas=4,
        batch_policy=BatchPolicy.SCALE_LEARNING_RATE,
        replica_index=1,
        procs_per_replica=2,
        gpus=4,
        attempt=3,
        image=OperatorSettings().trainer_image,
        restart_cause="PodsFailed: node gpu-7 is lost",
        rendezvous_endpoint="demo-rendezvous.demo-workers.default.svc:29400",
        rendezvous_id=f"{UID}-3",
        local_address="10.0.0.7",
        metrics_port=9200,
        work_directory=Path("/var/lib/kubedet"),
        termination_message_path=Path("/dev/termination-log"),
        grace_seconds=60,
        hang_timeout_seconds=90,
        hang_median_steps=50,
    )


@pytest.mark.parametrize("spec", [{}, EVERYTHING], ids=["least", "everything"])
def test_every_variable_is_one_of_the_contract(spec: dict[str, Any]) -> None:
    own = {name for name in _environment(**spec) if name.startswith(validation.RESERVED_PREFIX)}
    assert own <= {variable.value for variable in Environment}


def test_the_operator_can_set_every_variable_of_the_contract() -> None:
    other = {
        "checkpoint": {"storageUri": "file:///c", "intervalSeconds": 60},
        "dataset": {"validate": False},
    }
    assert not read_settings(_environment(**other)).dataset.validate
    written = set(_environment(**EVERYTHING)) | set(_environment(**other))
    assert {variable.value for variable in Environment} == written


def test_defaults_of_the_api_are_defaults_of_the_trainer() -> None:
    """The least a user may write means the same in a cluster and under `kubedet train`."""
    least: dict[str, str] = {
        Environment.RECIPE: "smoke_faster_rcnn",
        Environment.DATASET_URI: "synthetic://shapes",
    }
    alone = read_settings({**least, Environment.CHECKPOINT_URI: "file:///c"})
    written = read_settings(_environment(checkpoint={"storageUri": "file:///c"}))
    same = (
        "task",
        "dataset",
        "checkpoint",
        "evaluate_every_epochs",
        "stop_after",
        "report",
        "benchmark_images",
        "benchmark_iterations",
        "metrics_port",
        "grace_seconds",
    )
    for field in same:
        assert getattr(written, field) == getattr(alone, field), field


@pytest.mark.parametrize(
    ("variable", "value", "rule"),
    [
        (Environment.EVALUATION_STOP_AFTER, "3", "must be 0"),
        (Environment.EVALUATION_REPORT, "Best", "must be Last"),
    ],
)
def test_nothing_compares_evaluations_without_a_validation_split(
    variable: Environment, value: str, rule: str
) -> None:
    environment = _environment(dataset={"validate": False}) | {variable: value}
    with pytest.raises(UsageError, match=f"{variable}: got '{value}', {rule} without a validation split"):
        read_settings(environment)


def test_an_error_of_the_trainer_has_a_class_that_fits_its_code() -> None:
    for error in errors.TrainerError.__subclasses__():
        permanent = failure_class(error.exit_code) is FailureClass.PERMANENT
        assert permanent == (error.exit_code < 128), error


def test_the_exit_codes_are_those_of_the_api() -> None:
    charged = {code.value: failure_class(code).value for code in ExitCode if code is not ExitCode.DONE}
    assert charged == {
        1: "Permanent",
        2: "Permanent",
        65: "Permanent",
        66: "Permanent",
        77: "Permanent",
        93: "Permanent",
        95: "Permanent",
        96: "Permanent",
        134: "Application",
        137: "Application",
        139: "Application",
        143: "Infrastructure",
        144: "Infrastructure",
        150: "Infrastructure",
        151: "Peer",
        152: "Application",
        153: "Infrastructure",
        154: "Infrastructure",
    }


def test_a_termination_message_fits_whatever_it_says() -> None:
    failure = contract.Failure(exitCode=1, reason="X", message="é" * 9000, lastLines=["y" * 300] * 40)
    results = contract.Results(boxAP=1.0, metrics=[{"name": "x" * 40, "value": 1.0}] * 200)
    progress = {"progress": {"stage": "Done"}}
    for text in (
        contract.dump_termination_message(failure=failure, progress=progress),
        contract.dump_termination_message(results=results, progress=progress),
    ):
        assert len(text.encode()) <= contract.TERMINATION_MESSAGE_BYTES


def test_the_last_progress_of_rank_0_comes_with_its_results() -> None:
    progress = {"progress": {"stage": "Done"}}
    text = contract.dump_termination_message(results=contract.Results(boxAP=1.0), progress=progress)
    assert json.loads(text)["progress"] == progress


@pytest.mark.parametrize("resource", schema.RESOURCES, ids=lambda resource: resource.kind)
def test_the_generated_crd_is_current(resource: schema.Resource) -> None:
    path = ROOT / "manifests" / "crds" / f"kubedet.dev_{resource.plural}.yaml"
    assert path.read_text() == schema.dump_crd(resource), "run `make generate`"


def test_the_operator_knows_the_recipes_by_name_as_the_trainer_has_them() -> None:
    entries = select_entries({})
    assert [entry.recipe.name for entry in entries] == [*catalogue.NAMES, *catalogue.SMOKE_NAMES]
    for entry in entries:
        facets = catalogue.read_facets(entry.recipe.name)
        assert facets is not None
        assert vars(facets) == entry.facets


def test_the_operator_knows_which_recipes_have_published_weights() -> None:
    for entry in select_entries({}):
        name = entry.recipe.name
        assert catalogue.has_published_weights(name) == has_published_file(name), name


def test_a_fast_rcnn_and_no_other_recipe_has_an_rpn_of_its_backbone_for_its_proposals() -> None:
    for entry in select_entries({}):
        source = catalogue.proposal_recipe(entry.recipe.name)
        assert (source is not None) == (entry.recipe.data.num_proposals is not None), entry.recipe.name
        if source is not None:
            facets = Entry(recipe=read_recipe(source)).facets
            assert facets["method"] == "rpn"
            assert (facets["backbone"], facets["style"]) == (entry.facets["backbone"], entry.facets["style"])
            assert facets["schedule"] in ("1x", None)


def test_a_zoo_can_select_every_value_that_recipes_have() -> None:
    """Literals of the API and facets of the recipes are the same sets."""
    offered = {
        field.removesuffix("s"): set(get_args(get_args(hint)[0]))
        for field, hint in get_type_hints(Selection).items()
    }
    found: dict[str, set[str]] = {facet: set() for facet in offered}
    for entry in select_entries({}):
        for facet, value in entry.facets.items():
            found[facet] |= {value} if value else set()
    assert offered == found


@pytest.mark.parametrize(
    "path", sorted((ROOT / "manifests" / "samples").glob("*.yaml")), ids=lambda path: path.name
)
def test_samples_keep_to_the_api_and_render(path: Path) -> None:
    result = CliRunner().invoke(render, [str(path)])
    assert result.exit_code == 0, result.output
    kinds = [document["kind"] for document in yaml.safe_load_all(result.stdout)]
    sample = yaml.safe_load(path.read_text())
    if sample["kind"] == "ModelZoo":
        assert set(kinds) == {"DetectionJob"}
        return
    validation.load_job(sample)
    # One pod alone has no peers to find; several have a Service and a rendezvous pod.
    assert ("Service" in kinds) == (kinds.count("Pod") > 1)
