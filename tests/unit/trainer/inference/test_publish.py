"""A checkpoint becomes a file as the zoo publishes, and is loaded again as one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2  # noqa: F401  # here, since it changes the environment
import pytest
import torch
from click.testing import CliRunner

from kubedet_trainer import config, recipes
from kubedet_trainer.commands.publish import publish
from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.models.detector import Detector
from kubedet_trainer.settings import CheckpointSettings
from kubedet_trainer.training.checkpoint import Checkpointer, Origin, take_snapshot
from kubedet_trainer.training.optim import build_optimizer
from kubedet_trainer.training.state import TrainState
from kubedet_trainer.weights.fetch import fetch_weights
from kubedet_trainer.weights.load import load_weights, read_weights


def _model() -> Detector:
    return recipes.read_recipe("smoke_rpn").model.build(num_classes=3)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    """A folder with the checkpoint of a proposal network, and the network."""
    folder = tmp_path_factory.mktemp("run")
    recipe, model = recipes.read_recipe("smoke_rpn"), _model()
    state = TrainState(
        model=model,
        optimizer=build_optimizer(model, config=recipe.optimizer),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        global_batch=2,
        iteration=7,
    )
    checkpointer = Checkpointer(
        CheckpointSettings(uri=(folder / "checkpoints").as_uri()),
        origin=Origin(recipe=config.recipe_to_dict(recipe), classes=["disc", "square"]),
        scratch=folder / "scratch",
    )
    checkpointer.save(take_snapshot(state, epoch=3, metrics={"ar1000": 41.5}))
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


def test_published_file_is_loaded_as_any_other_and_refused_when_it_changed(
    checkpoints: tuple[Path, torch.nn.Module], tmp_path: Path
) -> None:
    file = _publish(checkpoints[0], tmp_path)
    fetched = fetch_weights([file.as_uri()], cache=tmp_path / "cache")
    ours = _model()
    load_weights(ours, file=fetched)
    for name, value in checkpoints[1].state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)
    file.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(InvalidInput, match="has SHA-256"):
        fetch_weights([file.as_uri()], cache=tmp_path / "another cache")
