"""Training on data as people have it, to its row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubedet_trainer import config
from trainer_builders import SMALL, save_checkpoints
from trainer_ranks import Job


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    """One epoch without a validation split, on two of three classes, with a test split at the end."""
    made = Job(
        folder=tmp_path / "a job",
        overrides={
            "schedule.epochs": "1",
            "schedule.decay_epochs": "",
            "data.classes": "square,circle",
            "data.keep_empty": "true",
        },
        environment={
            "KUBEDET_VALIDATE": "false",
            "KUBEDET_TEST_IMAGES": "val2017",
            "KUBEDET_TEST_ANNOTATIONS": "annotations/instances_val2017.json",
        },
    )
    yield made
    made.stop_all()


def test_a_run_without_validation_has_the_figures_of_its_test_split_only(job: Job) -> None:
    assert job.run() == [0], job.log()[-3000:]
    row: dict[str, Any] = json.loads((job.checkpoints / "results.json").read_text())
    assert "boxAP" not in row
    names = {metric["name"] for metric in row["metrics"]}
    assert names >= {"test.boxAP", "test.boxAP50"}
    assert all(name.startswith("test.") for name in names)
    assert row["inferenceFps"] > 0
    assert row["leftOut"]["objects of other classes"] > 0
    assert "images without objects" not in str(row["leftOut"])
    (manifest,) = job.checkpoints.glob("step-*/manifest.json")
    assert json.loads(manifest.read_text())["classes"] == ["square", "circle"]
    assert "there is no validation split" in job.log()
    assert "left out of training" in job.log()


def test_a_run_starts_from_a_checkpoint_of_other_classes_and_records_it(tmp_path: Path) -> None:
    job = Job(
        folder=tmp_path / "job",
        overrides={"schedule.epochs": "1", "schedule.decay_epochs": ""},
        environment={"KUBEDET_PRETRAINED_URI": (tmp_path / "theirs").as_uri()},
    )
    recipe = config.apply_overrides(SMALL["faster_rcnn"], job.all_overrides)
    theirs = recipe.build(num_classes=3)
    save_checkpoints(tmp_path / "theirs", recipe=recipe, model=theirs, classes=["triangle", "dog"])
    assert job.run() == [0], job.log()[-3000:]
    record = json.loads((job.checkpoints / "results.json").read_text())["pretrained"]
    assert record["file"] == (tmp_path / "theirs/step-00000007").as_uri()
    assert record["keptClasses"]["names"] == ["background", "triangle"]
    assert record["rowsByName"]["count"] == 4
    assert record["loaded"]["count"] == len(theirs.state_dict()) - 4
    assert "kept the rows of 2 classes (background, triangle) in 4 tensors" in job.log()
    assert job.state(10)["history"]["pretrained"] == record
