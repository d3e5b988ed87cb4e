"""`kubedet benchmark`: what it asks the launcher for, and what it prints of the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from kubedet_trainer import config
from kubedet_trainer.commands.benchmark import benchmark
from kubedet_trainer.settings import RunSettings, read_settings
from kubedet_trainer.worker import launch
from kubedet_trainer.worker.programs import Options
from trainer_builders import SMALL, save_checkpoints

ROW = {
    "memoryGB": 7.2,
    "secondsPerIteration": 0.403,
    "inferenceFps": 21.6,
    "hardware": {
        "accelerator": "cpu",
        "worldSize": 2,
        "globalBatch": 16,
        "accumulationSteps": 4,
        "timedIterations": 150,
        "memoryKind": "process_peak_resident",
    },
    "reference": {"memoryGB": 7.2, "secondsPerIteration": 0.806, "inferenceFps": 5.4, "boxAP": 39.9},
}


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[RunSettings]:
    """What each launch was asked for; it leaves `ROW` and a file among the checkpoints."""
    monkeypatch.chdir(tmp_path)
    settings: list[RunSettings] = []

    def run(environment: Mapping[str, str], *, options: Options) -> int:
        settings.append(read_settings(environment))
        checkpoints = Path(settings[-1].checkpoint.uri.removeprefix("file://"))
        checkpoints.mkdir(parents=True)
        (checkpoints / "results.json").touch()
        (settings[-1].work_directory / "results.json").write_text(json.dumps(ROW))
        return 0

    monkeypatch.setattr(launch, "run", run)
    return settings


def run(*arguments: str) -> Any:
    return CliRunner().invoke(benchmark, arguments, catch_exceptions=False)


def test_row_stands_beside_the_published_one_and_no_checkpoint_is_left(asked: list[RunSettings]) -> None:
    result = run("mask_rcnn_r50_fpn_gn_2x", "--procs", "2")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["here", "published", "ratio"]
    assert lines[1] == ["Mem", "(GB)", "7.20", "7.20", "1.00"]
    assert lines[2] == ["s/iter", "0.403", "0.806", "0.50"]
    assert lines[3] == ["FPS", "21.6", "5.4", "4.00"]
    assert "mean of 150 steps, process_peak_resident" in result.stdout
    assert not Path(asked[0].checkpoint.uri.removeprefix("file://")).exists()


def test_run_only_measures_random_weights_on_as_many_classes_as_published(asked: list[RunSettings]) -> None:
    result = run("ssd300_voc", "--iterations", "60", "--images", "7", "--json")
    assert json.loads(result.stdout) == ROW
    [settings] = asked
    assert (settings.benchmark_iterations, settings.benchmark_images) == (60, 7)
    assert settings.dataset.uri == "synthetic://shapes?images=256&val_images=7&size=640x480&classes=20"
    assert settings.overrides == {"pretrained": "none"}
    assert settings.checkpoint.resume == "Never"


def test_given_data_weights_and_proposals_are_used(asked: list[RunSettings], tmp_path: Path) -> None:
    run(
        *("fast_rcnn_r50_fpn_1x", "schedule.epochs=20", "--weights", "w.pth"),
        *("--dataset", "data", "--proposals", "given", "--gpus", "4"),
    )
    [settings] = asked
    assert settings.dataset.uri == (tmp_path / "data").as_uri()
    assert settings.dataset.proposals_uri == (tmp_path / "given").as_uri()
    assert settings.pretrained_uri == (tmp_path / "w.pth").as_uri()
    assert settings.overrides == {"schedule.epochs": "20"}
    assert (settings.gpus, settings.procs_per_replica) == (4, 4)


def test_a_detector_is_measured_by_its_own_recipe_on_as_many_classes(
    asked: list[RunSettings], tmp_path: Path
) -> None:
    recipe = config.apply_overrides(SMALL["rpn"], {"data.scale": "96,64", "optimizer.clip_norm": "none"})
    model = recipe.build(num_classes=6)
    save_checkpoints(tmp_path / "mine/checkpoints", recipe=recipe, model=model, classes=list("abcde"))
    run("mine", "optimizer.lr=0.3")
    [settings] = asked
    assert settings.recipe == "smoke_rpn"
    assert settings.overrides == {
        "data.scale": "96,64",
        "optimizer.clip_norm": "none",
        "optimizer.lr": "0.3",
    }
    assert settings.pretrained_uri == (tmp_path / "mine").as_uri()
    assert settings.dataset.uri.endswith("&classes=5")
    assert settings.work_directory == tmp_path / "runs/smoke_rpn/benchmark"


def test_weights_that_name_no_recipe_are_those_of_a_recipe(asked: list[RunSettings], tmp_path: Path) -> None:
    torch.save({"head.bias": torch.zeros(1)}, tmp_path / "own.pth")
    result = run("own.pth")
    assert result.exit_code == 65
    assert "recipe: own.pth does not name its recipe" in result.stderr
    assert asked == []
