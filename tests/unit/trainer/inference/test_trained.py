"""Detectors from checkpoints and published files, and the commands that use them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2  # here, since it changes the environment
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from dataset_builders import make_image
from kubedet_trainer import config, recipes
from kubedet_trainer.commands.inference import evaluate, predict
from kubedet_trainer.inference.trained import TrainedDetector, load_checkpoint
from kubedet_trainer.models.detector import Detector
from kubedet_trainer.settings import CheckpointSettings
from kubedet_trainer.training.checkpoint import Checkpointer, Origin, take_snapshot
from kubedet_trainer.training.optim import build_optimizer
from kubedet_trainer.training.state import TrainState

CLASSES = ["disc", "square"]
OVERRIDES = {"data.scale": "96,64", "data.num_workers": "0", "model.rpn_head.nms_post": "32"}


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A run that has ended: what it left, and the data set it was for."""

    recipe: config.Recipe
    model: Detector
    checkpoints: Path
    dataset: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    recipe = config.apply_overrides(recipes.read_recipe("smoke_faster_rcnn"), OVERRIDES)
    model = recipe.model.build(num_classes=len(CLASSES) + 1)
    state = TrainState(
        model=model,
        optimizer=build_optimizer(model, config=recipe.optimizer),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        global_batch=2,
    )
    checkpointer = Checkpointer(
        CheckpointSettings(uri=(folder / "checkpoints").as_uri()),
        origin=Origin(recipe=config.recipe_to_dict(recipe), classes=CLASSES),
        scratch=folder / "scratch",
    )
    for state.iteration in (1, 2):
        checkpointer.save(take_snapshot(state, epoch=0, metrics={}))
    write_dataset(folder / "data", classes=CLASSES)
    return Trained(recipe=recipe, model=model, checkpoints=folder / "checkpoints", dataset=folder / "data")


def write_dataset(root: Path, *, classes: list[str]) -> None:
    """Two images of 64x48 with one box each, as validation split."""
    (root / "val2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    for number in (1, 2):
        pixels = np.random.default_rng(number).integers(0, 255, (48, 64, 3), np.uint8)
        cv2.imwrite(str(root / "val2017" / f"{number}.png"), pixels)
    document = {
        "images": [
            {"id": number, "file_name": f"{number}.png", "width": 64, "height": 48} for number in (1, 2)
        ],
        "categories": [{"id": 10 * number, "name": name} for number, name in enumerate(classes, start=1)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 10, "bbox": [4, 4, 40, 40], "area": 1600, "iscrowd": 0}
            for n in (1, 2)
        ],
    }
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(document))


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(location: Path, scratch: Path) -> TrainedDetector:
    settings = CheckpointSettings(uri=location.as_uri())
    return load_checkpoint(settings, scratch=scratch, device=torch.device("cpu"))


@pytest.mark.parametrize("place", [".", "step-00000001"])
def test_checkpoint_gives_model_recipe_and_classes_back(trained: Trained, tmp_path: Path, place: str) -> None:
    detector = load(trained.checkpoints / place, tmp_path)
    assert detector.recipe == trained.recipe
    assert detector.classes == tuple(CLASSES)
    assert not detector.model.training
    for name, value in trained.model.state_dict().items():
        torch.testing.assert_close(detector.model.state_dict()[name], value, rtol=0, atol=0)
    assert list(tmp_path.iterdir()) == []


def run(command: Any, *arguments: object) -> Any:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_evaluate_prints_the_figures_of_the_newest_checkpoint(trained: Trained) -> None:
    result = run(evaluate, trained.checkpoints, "--dataset", trained.dataset, "--json")
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert {"boxAP", "boxAP50", "boxAP75", "boxAR100"} <= figures.keys()
    assert all(0 <= value <= 100 for value in figures.values())
    table = run(evaluate, trained.checkpoints, "--dataset", trained.dataset)
    assert table.stdout.split()[:2] == ["boxAP", f"{figures['boxAP']:.1f}"]


def test_evaluate_takes_a_recipe_with_published_weights(trained: Trained, tmp_path: Path) -> None:
    recipe = recipes.read_recipe("smoke_rpn")
    model = recipe.model.build(num_classes=len(CLASSES) + 1)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "published.pth")
    arguments = ["smoke_rpn", "--weights", "published.pth", "--dataset", trained.dataset, "--json"]
    result = run(evaluate, *arguments)
    assert result.exit_code == 0, result.output
    assert "ar1000" in json.loads(result.stdout)


def test_published_weights_are_looked_for_on_the_mirror_alone(trained: Trained, tmp_path: Path) -> None:
    arguments = ["rpn_r50_fpn_1x", "--weights", "published", "--weights-mirror", tmp_path.as_uri()]
    result = run(evaluate, *arguments, "--dataset", trained.dataset)
    assert result.exit_code == 66
    file = "rpn_r50_fpn_1x_20181010-4a9c0712.pth"
    for place in (f"{tmp_path.as_uri()}/mmdetection/models/{file}", f"{tmp_path.as_uri()}/{file}"):
        assert f"{place}: there is no such file" in result.stderr
    assert "http" not in result.stderr


def test_rows_of_caffe_were_never_published(trained: Trained) -> None:
    arguments = ["rpn_r50_caffe_fpn_1x", "--weights", "published", "--dataset", trained.dataset]
    result = run(evaluate, *arguments)
    assert result.exit_code == 65
    assert "the zoo published none for 'rpn_r50_caffe_fpn_1x'" in result.stderr


def test_evaluate_refuses_a_data_set_of_other_classes(trained: Trained, tmp_path: Path) -> None:
    write_dataset(tmp_path / "other", classes=["cat", "dog"])
    result = run(evaluate, trained.checkpoints, "--dataset", tmp_path / "other")
    assert result.exit_code == 65
    assert (
        "2 objects of the category 'cat', must have only those of the classes disc, square" in result.stderr
    )


def test_evaluate_without_a_checkpoint_says_so(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = run(evaluate, tmp_path / "empty", "--dataset", trained.dataset)
    assert result.exit_code == 66
    assert "nothing at file://" in result.stderr


def test_evaluate_of_a_recipe_without_weights_is_a_usage_error(trained: Trained) -> None:
    result = run(evaluate, "smoke_rpn", "--dataset", trained.dataset)
    assert result.exit_code == 2
    assert "--weights" in result.stderr


def test_manifest_that_is_none_is_refused(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"iteration": 1}')
    result = run(evaluate, tmp_path, "--dataset", trained.dataset)
    assert result.exit_code == 65
    assert "is not a manifest" in result.stderr


def test_predict_leaves_a_picture_of_each_image_and_a_coco_file(trained: Trained, tmp_path: Path) -> None:
    images = trained.dataset / "val2017"
    result = run(predict, trained.checkpoints, images, "--output", "found", "--score", "0")
    assert result.exit_code == 0, result.output
    assert sorted(path.suffix for path in (tmp_path / "found").iterdir()) == [".json", ".png", ".png"]
    (file,) = (tmp_path / "found").glob("*.json")
    document = json.loads(file.read_text())
    assert [category["name"] for category in document["categories"]] == CLASSES
    assert len(document["images"]) == 2
    assert str(len(document["annotations"])) in result.stdout


def test_predict_ends_with_65_where_it_left_a_file_out(trained: Trained, tmp_path: Path) -> None:
    make_image(tmp_path / "in", "a.png")
    (tmp_path / "in/b.png").write_text("no picture")
    result = run(predict, trained.checkpoints, tmp_path / "in", "--output", tmp_path / "out")
    assert result.exit_code == 65
    assert (tmp_path / "out/a.png").is_file()
    assert f"left out: {tmp_path}/in/b.png: not an image" in result.stderr


def test_predict_without_images_ends_with_66(trained: Trained) -> None:
    result = run(predict, trained.checkpoints, "nowhere")
    assert result.exit_code == 66


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_absent_gpu_is_a_usage_error(trained: Trained) -> None:
    result = run(predict, trained.checkpoints, trained.dataset, "--device", "cuda")
    assert result.exit_code == 2
    assert "torch sees no GPU" in result.stderr
