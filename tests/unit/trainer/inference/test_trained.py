"""Detectors from checkpoints and published files, and the commands that use them."""

from __future__ import annotations

import io
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
from kubedet_trainer.commands.publish import publish
from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.inference.trained import TrainedDetector, load_detector, read_recipe_of
from kubedet_trainer.models.detector import Detector
from kubedet_trainer.training.source import Source, read_source
from kubedet_trainer.weights.load import read_weights
from trainer_builders import save_checkpoints

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
    model = recipe.build(num_classes=len(CLASSES) + 1)
    save_checkpoints(folder / "checkpoints", recipe=recipe, model=model, classes=CLASSES, iterations=(1, 2))
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


def load(location: Path, cache: Path) -> TrainedDetector:
    return load_detector(location.as_uri(), cache=cache, device=torch.device("cpu"))


@pytest.mark.parametrize("place", [".", "..", "step-00000001", "step-00000001/state.pt"])
def test_checkpoint_gives_model_recipe_and_classes_back(trained: Trained, tmp_path: Path, place: str) -> None:
    detector = load((trained.checkpoints / place).resolve(), tmp_path)
    assert detector.recipe == trained.recipe
    assert detector.classes == tuple(CLASSES)
    assert not detector.model.training
    for name, value in trained.model.state_dict().items():
        torch.testing.assert_close(detector.model.state_dict()[name], value, rtol=0, atol=0)


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


def test_evaluate_measures_on_the_test_split_without_looking_at_the_others(trained: Trained) -> None:
    paths = ("--test-images", "val2017", "--test-annotations", "annotations/instances_val2017.json")
    others = ("--train-annotations", "absent.json", "--val-annotations", "absent.json")
    given = ("--dataset", trained.dataset, *others, "--json")
    found = run(evaluate, trained.checkpoints, "--split", "test", *paths, *given)
    assert found.exit_code == 0, found.output
    assert "boxAP" in json.loads(found.stdout)
    refused = run(evaluate, trained.checkpoints, "--split", "test", *given)
    assert refused.exit_code == 65
    assert "dataset.test: absent, must be given with --test-annotations" in refused.stderr


def _bare_weights(folder: Path) -> Path:
    model = recipes.read_recipe("smoke_rpn").build(num_classes=len(CLASSES) + 1)
    torch.save({"state_dict": model.state_dict()}, folder / "own.pth")
    return folder / "own.pth"


def test_evaluate_takes_weights_that_say_nothing_of_themselves(trained: Trained, tmp_path: Path) -> None:
    options = ["--recipe", "smoke_rpn", "--classes", "disc,square", "--dataset", trained.dataset, "--json"]
    result = run(evaluate, _bare_weights(tmp_path), *options)
    assert result.exit_code == 0, result.output
    assert "ar1000" in json.loads(result.stdout)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "recipe: own.pth does not name its recipe, must be given with --recipe"),
        (
            ["--recipe", "smoke_rpn"],
            "classes: own.pth does not name its classes, must be given with --classes",
        ),
        (["--recipe", "smoke_rnp", "--classes", "a"], "recipe: got 'smoke_rnp'"),
        (["--recipe", "smoke_ssd", "--classes", "a,b"], "own.pth does not fit the model"),
    ],
)
def test_what_weights_do_not_say_must_be_given(tmp_path: Path, options: list[str], message: str) -> None:
    make_image(tmp_path / "in", "a.png")
    result = run(predict, _bare_weights(tmp_path), tmp_path / "in", *options)
    assert result.exit_code == 65
    assert message in result.stderr


def test_a_published_file_says_all_and_predicts_as_its_checkpoint_does(
    trained: Trained, tmp_path: Path
) -> None:
    assert run(publish, trained.checkpoints, "--output", "published").exit_code == 0
    (file,) = (tmp_path / "published").iterdir()
    detector = load(file, tmp_path / "cache")
    assert (detector.recipe, detector.classes) == (trained.recipe, tuple(CLASSES))
    images = trained.dataset / "val2017"
    for source, output in ((file, "a"), (trained.checkpoints, "b")):
        assert run(predict, source, images, "--output", output, "--score", "0").exit_code == 0
    found = [json.loads((tmp_path / output / "detections.json").read_text()) for output in ("a", "b")]
    assert found[0] == found[1]
    assert found[0]["annotations"]


def test_a_file_of_the_zoo_is_known_by_its_name(tmp_path: Path) -> None:
    recipe = recipes.read_recipe("rpn_r50_fpn_1x")
    content = io.BytesIO()
    torch.save({"state_dict": recipe.build(num_classes=81).state_dict()}, content)
    name = "rpn_r50_fpn_1x_20181010-4a9c0712.pth"
    (tmp_path / name).write_bytes(content.getvalue())
    source = Source(name=name, uri=name, weights=read_weights(tmp_path / name), manifest=None)
    assert read_recipe_of(source, given=None) == recipe
    assert source.weights.classes is not None
    assert len(source.weights.classes) == 80


def test_a_local_file_that_changed_is_read_again(tmp_path: Path) -> None:
    file = _bare_weights(tmp_path)
    first = read_source(file.as_uri(), cache=tmp_path / "cache").weights.tensors
    torch.save({name: value + 1 for name, value in first.items()}, file)
    second = read_source(file.as_uri(), cache=tmp_path / "cache").weights.tensors
    assert all(torch.equal(second[name], value + 1) for name, value in first.items())


def test_a_checkpoint_of_another_hash_than_asked_for_is_refused(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"has SHA-256 .*, must have 00ff"):
        read_source(trained.checkpoints.as_uri(), cache=tmp_path, sha256="00ff")


def test_published_weights_are_looked_for_on_the_mirror_alone(trained: Trained, tmp_path: Path) -> None:
    arguments = ["rpn_r50_fpn_1x", "--weights-mirror", tmp_path.as_uri()]
    result = run(evaluate, *arguments, "--dataset", trained.dataset)
    assert result.exit_code == 66
    file = "rpn_r50_fpn_1x_20181010-4a9c0712.pth"
    for place in (f"{tmp_path.as_uri()}/mmdetection/models/{file}", f"{tmp_path.as_uri()}/{file}"):
        assert f"{place}: there is no such file" in result.stderr
    assert "http" not in result.stderr


@pytest.mark.parametrize("recipe", ["rpn_r50_caffe_fpn_1x", "smoke_rpn"])
def test_a_recipe_without_published_weights_is_no_detector(trained: Trained, recipe: str) -> None:
    result = run(evaluate, recipe, "--dataset", trained.dataset)
    assert result.exit_code == 65
    assert f"the zoo published none for '{recipe}', must be" in result.stderr


@pytest.mark.parametrize(("given", "told"), [(("square", "disc"), True), (("disc", "square"), False)])
def test_other_names_of_classes_than_those_of_the_weights_are_told(
    given: tuple[str, ...], told: bool, trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = trained.checkpoints.as_uri()
    detector = load_detector(uri, classes=given, cache=tmp_path, device=torch.device("cpu"))
    assert detector.classes == given
    said = "names its classes disc, square; they are called square, disc here, as --classes says"
    assert (said in caplog.text) is told


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
    assert "nothing to load at file://" in result.stderr


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
