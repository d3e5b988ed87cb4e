"""A detector from a folder on PYTHONPATH is trained, evaluated and loaded again, as those of kubedet are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "extension"
RECIPE = "my_detectors.recipes:smoke_fcos"
DATASET = "synthetic://shapes?images=24&val_images=4&size=128x96"
SHORT = (
    "data.scale=128,96",
    "data.num_workers=0",
    "schedule.epochs=2",
    "schedule.decay_epochs=1",
    "schedule.warmup_iterations=2",
)

pytestmark = pytest.mark.torchrun


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where commands run, with or without the folder of the detector."""

    folder: Path

    def kubedet(self, *arguments: object, knows_fcos: bool = True) -> subprocess.CompletedProcess[str]:
        paths = [str(FOLDER)] if knows_fcos else []
        inherited = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        return subprocess.run(
            [sys.executable, "-m", "kubedet_trainer.commands.kubedet", *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths + inherited), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )

    def json(self, *arguments: object) -> Any:
        done = self.kubedet(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A folder in which FCOS was trained for twelve steps, with an evaluation after each six."""
    place = Place(folder=tmp_path_factory.mktemp("own"))
    done = place.kubedet("train", RECIPE, *SHORT, "--dataset", DATASET)
    assert done.returncode == 0, done.stderr[-3000:]
    return place


def test_run_leaves_the_row_of_the_recipe(trained: Place) -> None:
    row = json.loads((trained.folder / "runs/smoke_fcos/work/results.json").read_text())

    assert row["recipe"] == RECIPE
    assert "reference" not in row or row["reference"] == {}
    assert {figure["name"] for figure in row["metrics"]} >= {"boxAP", "boxAP50"}
    assert row["secondsPerIteration"] > 0


def test_detector_is_evaluated_from_its_checkpoint(trained: Place) -> None:
    figures = trained.json("evaluate", "runs/smoke_fcos/checkpoints", "--dataset", DATASET)

    row = json.loads((trained.folder / "runs/smoke_fcos/work/results.json").read_text())
    of_run = {figure["name"]: figure["value"] for figure in row["metrics"]}
    assert of_run.pop("validationLoss") > 0, "only a run has it"
    assert figures == of_run


def test_detector_predicts(trained: Place) -> None:
    cv2.imwrite(str(trained.folder / "picture.png"), np.zeros((96, 128, 3), np.uint8))

    done = trained.kubedet("predict", "runs/smoke_fcos/checkpoints", "picture.png", "--score", "0")

    assert done.returncode == 0, done.stderr
    assert "in 1 pictures" in done.stdout


def test_recipe_is_measured(trained: Place) -> None:
    sizes = ("--iterations", 4, "--images", 2)

    row = trained.json("benchmark", RECIPE, *SHORT, "--dataset", DATASET, *sizes)

    assert row["recipe"] == RECIPE
    assert row["secondsPerIteration"] > 0
    assert row["inferenceFps"] > 0


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "runs/smoke_fcos/checkpoints", "--dataset", DATASET),
        ("predict", "runs/smoke_fcos/checkpoints", "picture.png"),
        ("train", RECIPE, "--dataset", DATASET),
        ("recipes", RECIPE),
    ],
    ids=lambda command: command[0],
)
def test_without_the_module_it_is_named_in_a_line(trained: Place, command: Sequence[str]) -> None:
    done = trained.kubedet(*command, knows_fcos=False)

    assert done.returncode == 66
    assert (
        "there is no module 'my_detectors' here, must be an installed package or in a folder" in done.stderr
    )
    assert "Traceback" not in done.stderr
