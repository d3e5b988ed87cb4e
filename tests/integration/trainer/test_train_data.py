"""Training on data as people have it, to its row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

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
