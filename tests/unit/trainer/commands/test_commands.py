"""The trainer's commands, as a user types them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import cv2  # here, since it changes the environment
import numpy as np
import pytest
from click.testing import CliRunner

from kubedet_trainer.commands import data, options
from kubedet_trainer.commands.train import train
from kubedet_trainer.worker import launch


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, str]]:
    """Environments that `kubedet train` launches; the launch succeeds with one figure."""
    environments: list[dict[str, str]] = []

    def run(environment: Mapping[str, str], **_: Any) -> int:
        environments.append(
            {name: value for name, value in environment.items() if name.startswith("KUBEDET_")}
        )
        work = Path(environment["KUBEDET_WORK_DIRECTORY"])
        work.mkdir(parents=True)
        results = {
            "boxAP": 36.36,
            "reference": {"boxAP": 36.4},
            "checkpoint": "Best",
            "epoch": 4,
            "endedEarly": "stopped after epoch 7 of 12",
            "reportUri": "file:///report",
        }
        (work / "results.json").write_text(json.dumps(results))
        return 0

    monkeypatch.setattr(launch, "run", run)
    monkeypatch.chdir(tmp_path)
    return environments


def test_train_fills_the_contract_and_prints_the_row(
    launched: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBEDET_DATASET_ACCESS_KEY", "key")
    arguments = ["smoke_rpn", "optimizer.lr=0.01", "seed=3", "--dataset", "data", "--gpus", "2"]
    result = CliRunner().invoke(train, arguments)
    assert result.exit_code == 0, result.output
    (environment,) = launched
    assert environment["KUBEDET_RECIPE"] == "smoke_rpn"
    assert json.loads(environment["KUBEDET_OVERRIDES"]) == {"optimizer.lr": "0.01", "seed": "3"}
    assert environment["KUBEDET_DATASET_URI"] == (tmp_path / "data").as_uri()
    assert environment["KUBEDET_CHECKPOINT_URI"] == (tmp_path / "runs/smoke_rpn/checkpoints").as_uri()
    assert environment["KUBEDET_WORK_DIRECTORY"] == str(tmp_path / "runs/smoke_rpn/work")
    assert environment["KUBEDET_PROCS_PER_REPLICA"] == environment["KUBEDET_GPUS"] == "2"
    assert environment["KUBEDET_DATASET_ACCESS_KEY"] == "key"
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["smoke_rpn", "36.4"] in lines
    assert ["published", "36.4"] in lines
    assert ["report:", "file:///report"] in lines
    assert "KUBEDET_RECIPE" not in os.environ


def test_train_stops_early_and_reports_the_best_if_asked_to(launched: list[dict[str, str]]) -> None:
    arguments = ["smoke_rpn", "--dataset", "data", "--stop-after", "3", "--report", "Best"]
    result = CliRunner().invoke(train, arguments)
    assert result.exit_code == 0, result.output
    assert launched[0]["KUBEDET_EVALUATION_STOP_AFTER"] == "3"
    assert launched[0]["KUBEDET_EVALUATION_REPORT"] == "Best"
    assert "Best checkpoint, after epoch 4\n" in result.stdout
    assert "stopped after epoch 7 of 12\n" in result.stdout


def test_train_passes_uris_on_as_they_are(launched: list[dict[str, str]]) -> None:
    arguments = ["smoke_rpn", "--dataset", "synthetic://shapes?images=8", "--checkpoint", "s3://bucket/run"]
    assert CliRunner().invoke(train, arguments).exit_code == 0
    assert launched[0]["KUBEDET_DATASET_URI"] == "synthetic://shapes?images=8"
    assert launched[0]["KUBEDET_CHECKPOINT_URI"] == "s3://bucket/run"


def test_train_refuses_an_override_that_is_no_assignment(launched: list[dict[str, str]]) -> None:
    result = CliRunner().invoke(train, ["smoke_rpn", "lr", "--dataset", "data"])
    assert result.exit_code == 2
    assert "override: got 'lr', must be FIELD=VALUE" in result.stderr
    assert launched == []


def test_train_ends_with_the_code_of_the_launch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "run", lambda *_, **__: 96)
    result = CliRunner().invoke(train, ["smoke_rpn", "--dataset", "data"])
    assert result.exit_code == 96


def write_split(root: Path, *, boxes: list[list[float]]) -> None:
    """A data set whose two splits are the same two images; `boxes` are those of the first."""
    (root / "images").mkdir()
    for number in (1, 2):
        cv2.imwrite(str(root / "images" / f"{number}.png"), np.zeros((40, 50, 3), np.uint8))
    document = {
        "images": [
            {"id": number, "file_name": f"{number}.png", "width": 50, "height": 40} for number in (1, 2)
        ],
        "categories": [{"id": 7, "name": "thing"}],
        "annotations": [
            {"id": index, "image_id": 1, "category_id": 7, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for index, box in enumerate(boxes, start=1)
        ],
    }
    (root / "all.json").write_text(json.dumps(document))


def check_data(root: Path) -> Any:
    arguments = ["--dataset", str(root), "--train-images", "images", "--train-annotations", "all.json"]
    arguments += ["--val-images", "images", "--val-annotations", "all.json"]
    return CliRunner().invoke(data.check_data, arguments)


def test_check_data_is_content_with_sound_data(tmp_path: Path) -> None:
    write_split(tmp_path, boxes=[[1, 1, 10, 10]])
    result = check_data(tmp_path)
    assert result.exit_code == 0, result.output
    assert result.stdout == ""


def test_check_data_lists_every_problem_and_ends_with_65(tmp_path: Path) -> None:
    write_split(tmp_path, boxes=[[1, 1, 10, 10], [45, 1, 20, 10]])
    (tmp_path / "images" / "2.png").unlink()
    result = check_data(tmp_path)
    assert result.exit_code == 65
    assert "2.png" in result.stdout
    assert "box" in result.stdout
    assert "2 problems" in result.stderr


def test_check_data_without_a_data_set_ends_with_66(tmp_path: Path) -> None:
    assert check_data(tmp_path / "nowhere").exit_code == 66


@pytest.mark.parametrize(
    ("said", "code", "output"),
    [
        (
            "CUDA out of memory. Tried to allocate 2 GiB\nand more",
            95,
            "Error: out of GPU memory: CUDA out of",
        ),
        (
            "CUDA error: no kernel image is available for execution on the device",
            65,
            "no kernels for the GPU",
        ),
        ("shape '[2, 3]' is invalid for input of size 5", 1, ""),
    ],
)
def test_what_cuda_says_ends_a_command_with_the_code_of_its_cause(said: str, code: int, output: str) -> None:
    @click.command()
    @options.ends_with_contract_code
    def fail() -> None:
        raise RuntimeError(said)

    result = CliRunner().invoke(fail)
    assert result.exit_code == code
    assert output in result.output
    assert "and more" not in result.output
