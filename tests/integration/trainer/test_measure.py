"""Weights that exist are measured: real ranks, without a training split and without anything that is kept."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from published_weights import write_weights
from trainer_ranks import Job

MakeJob = Callable[..., Job]
DATASET = "synthetic://shapes?images=4&val_images=8&size=160x128"
AS_IN_THE_RECIPE = dict.fromkeys(name for name in Job(folder=Path()).all_overrides if name != "global_batch")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights("smoke_faster_rcnn", folder=tmp_path_factory.mktemp("weights"))


def _build_job(folder: Path, weights: Path, environment: Mapping[str, str]) -> Job:
    variables = {
        "KUBEDET_TASK": "Measure",
        "KUBEDET_DATASET_URI": DATASET,
        "KUBEDET_PRETRAINED_URI": weights.as_uri(),
        "KUBEDET_BENCHMARK_ITERATIONS": "4",
        "KUBEDET_BENCHMARK_IMAGES": "4",
        **environment,
    }
    return Job(folder=folder, overrides={**AS_IN_THE_RECIPE, "data.num_workers": "0"}, environment=variables)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Job:
    """A measurement that nothing disturbed."""
    job = _build_job(tmp_path_factory.mktemp("measured"), weights, {})
    assert job.run() == [0], job.log()[-3000:]
    return job


@pytest.fixture
def make_job(tmp_path: Path, weights: Path) -> Iterator[MakeJob]:
    jobs: list[Job] = []

    def make(name: str = "job", **environment: str) -> Job:
        job = _build_job(tmp_path / name, weights, environment)
        jobs.append(job)
        return job

    yield make
    for job in jobs:
        job.stop_all()


def _row(job: Job) -> dict[str, Any]:
    row: dict[str, Any] = json.loads((job.checkpoints / "results.json").read_text())
    return row


def _figures(job: Job) -> dict[str, float]:
    return {item["name"]: item["value"] for item in _row(job)["metrics"]}


def test_the_row_of_weights_says_that_nothing_was_trained(measured: Job, weights: Path) -> None:
    row = _row(measured)
    assert (row["task"], row["modelUri"]) == ("Measure", weights.as_uri())
    assert row["boxAP"] > 0
    assert row["hardware"]["timedIterations"] == 2
    assert min(row["secondsPerIteration"], row["inferenceFps"], row["memoryGB"]) > 0
    assert not {"epoch", "iterations", "checkpoint", "leftOut"} & {name for name in row if row[name]}
    assert [split["name"] for split in row["data"]["splits"]] == ["val"]
    assert measured.steps() == []
    page = (measured.checkpoints / "report.html").read_text()
    assert "Measured, not trained" in page
    assert "Learning rate" not in page


def test_two_ranks_measure_what_one_measures_also_without_a_training_split(
    make_job: MakeJob, measured: Job, tmp_path: Path
) -> None:
    (root,) = (measured.work / "dataset").glob("*/")
    copy = shutil.copytree(root, tmp_path / "data", ignore=shutil.ignore_patterns("*train2017*"))
    two = make_job(KUBEDET_PROCS_PER_REPLICA="2", KUBEDET_DATASET_URI=copy.as_uri())
    assert two.run(world_size=2) == [0, 0], two.log()[-3000:]
    assert _row(two)["hardware"]["worldSize"] == 2
    wanted = {name: value for name, value in _figures(measured).items() if name != "validationLoss"}
    assert wanted.items() <= _figures(two).items()


def test_without_a_benchmark_the_row_has_the_precision_alone(make_job: MakeJob) -> None:
    job = make_job(KUBEDET_BENCHMARK_ITERATIONS="0", KUBEDET_BENCHMARK_IMAGES="0")
    assert job.run() == [0], job.log()[-3000:]
    row = _row(job)
    assert row["boxAP"] > 0
    assert not {"secondsPerIteration", "inferenceFps", "memoryGB"} & row.keys()


@pytest.mark.parametrize("moment", ["evaluation", "steps"])
def test_a_stopped_measurement_saves_nothing_and_begins_again(
    make_job: MakeJob, measured: Job, moment: str
) -> None:
    job = make_job(KUBEDET_BENCHMARK_ITERATIONS="4000")
    (rank,) = job.start()

    def stage() -> str:
        record = job.work / "progress.json"
        return str(json.loads(record.read_text())["progress"]["stage"]) if record.exists() else ""

    job.wait_for(lambda: stage() == {"evaluation": "Evaluating", "steps": "Training"}[moment], rank=rank)
    rank.send_signal(signal.SIGTERM)
    assert rank.wait(timeout=60) == 143, job.log()[-3000:]
    assert "a measurement has nothing to save, and begins again" in job.failure()["message"]
    assert job.steps() == []
    again = make_job()
    assert again.run() == [0], again.log()[-3000:]
    assert _figures(again) == _figures(measured)


def test_weights_of_another_detector_are_refused(make_job: MakeJob, tmp_path: Path) -> None:
    others = write_weights("smoke_retinanet", folder=tmp_path)
    job = make_job(KUBEDET_PRETRAINED_URI=others.as_uri())
    assert job.run() == [65], job.log()[-3000:]
    message = job.failure()["message"]
    assert message.startswith(f"pretrained: {others.name}")
    assert "\n" not in message


def test_weights_for_other_classes_are_refused(make_job: MakeJob, tmp_path: Path) -> None:
    others = write_weights("smoke_faster_rcnn", folder=tmp_path, classes=("cat", "dog", "cow"))
    job = make_job(KUBEDET_PRETRAINED_URI=others.as_uri())
    assert job.run() == [65], job.log()[-3000:]
    assert "cat" in job.failure()["message"]


def test_a_recipe_without_published_weights_needs_the_users_own(make_job: MakeJob) -> None:
    job = make_job(KUBEDET_PRETRAINED_URI="")
    assert job.run() == [65], job.log()[-3000:]
    assert job.failure()["message"] == (
        "pretrained: absent, must be set to measure smoke_faster_rcnn: the zoo published no weights for it"
    )


def test_a_measurement_does_not_replace_the_report_of_a_training(make_job: MakeJob) -> None:
    job = make_job()
    job.checkpoints.mkdir(parents=True)
    trained = json.dumps({"recipe": "smoke_faster_rcnn", "reportVersion": 1})
    (job.checkpoints / "results.json").write_text(trained)
    assert job.run() == [65], job.log()[-3000:]
    assert f"{job.checkpoints.as_uri()} has the report of a training" in job.failure()["message"]
    assert (job.checkpoints / "results.json").read_text() == trained
