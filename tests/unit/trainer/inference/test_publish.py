"""A checkpoint becomes a file as the zoo publishes, and is loaded again as one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2  # noqa: F401  # here, since it changes the environment
import pytest
import torch
from click.testing import CliRunner

from kubedet_trainer import recipes
from kubedet_trainer.commands.publish import publish
from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.models.detector import Detector
from kubedet_trainer.models.options.task import Task
from kubedet_trainer.weights.fetch import fetch_weights
from kubedet_trainer.weights.load import load_weights, read_weights
from trainer_builders import save_checkpoints


def _model() -> Detector:
    return recipes.read_recipe("smoke_rpn").model.build(Task(num_classes=3))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    """A folder with the checkpoint of a proposal network, and the network."""
    folder = tmp_path_factory.mktemp("run")
    recipe, model = recipes.read_recipe("smoke_rpn"), _model()
    save_checkpoints(folder / "checkpoints", recipe=recipe, model=model, classes=["disc", "square"])
    return folder / "checkpoints", model


def _publish(checkpoints: Path, folder: Path) -> Path:
    result = CliRunner().invoke(
        publish, [str(checkpoints), "--output", str(folder / "out"), "--work-directory", str(folder / "work")]
    )
    assert result.exit_code == 0, result.output
    (file,) = (folder / "out").iterdir()
    assert result.stdout.startswith(str(file))
    return file


def test_file_is_named_by_recipe_date_and_hash_and_holds_weights_alone(
    checkpoints: tuple[Path, torch.nn.Module], tmp_path: Path
) -> None:
    file = _publish(checkpoints[0], tmp_path)
    recipe, date, digest = file.stem.replace("-", "_").rsplit("_", 2)
    assert recipe == "smoke_rpn"
    assert len(date) == 8
    assert hashlib.sha256(file.read_bytes()).hexdigest().startswith(digest)
    assert len(digest) == 8
    document = torch.load(file, weights_only=True)
    assert document.keys() == {"meta", "state_dict"}
    meta = read_weights(file).meta
    assert (meta["epoch"], meta["iter"], meta["CLASSES"]) == (3, 7, ["disc", "square"])
    assert (meta["metrics"], meta["recipe"]["name"]) == ({"ar1000": 41.5}, "smoke_rpn")
    assert meta["job"] == "cells"


def test_published_file_is_loaded_as_any_other_and_refused_when_it_changed(
    checkpoints: tuple[Path, torch.nn.Module], tmp_path: Path
) -> None:
    file = _publish(checkpoints[0], tmp_path)
    fetched = fetch_weights([file.as_uri()], cache=tmp_path / "cache")
    ours = _model()
    load_weights(ours, weights=read_weights(fetched), file=fetched.name)
    for name, value in checkpoints[1].state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)
    file.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(InvalidInput, match="has SHA-256"):
        fetch_weights([file.as_uri()], cache=tmp_path / "another cache")


def test_only_a_checkpoint_is_published(checkpoints: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    file = _publish(checkpoints[0], tmp_path)
    result = CliRunner().invoke(publish, [str(file), "--work-directory", str(tmp_path / "work")])
    assert result.exit_code == 65
    assert "is a file of weights, must be a checkpoint or contain checkpoints" in result.stderr
