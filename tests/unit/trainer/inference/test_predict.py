"""Predictions in a user's own images."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

from dataset_builders import make_image
from kubedet_trainer import recipes
from kubedet_trainer.data import images
from kubedet_trainer.errors import InvalidInput, MissingInput
from kubedet_trainer.inference import predict
from kubedet_trainer.inference.predict import Prediction
from kubedet_trainer.inference.trained import TrainedDetector
from kubedet_trainer.models.detector import Detector
from kubedet_trainer.models.options.task import Task
from kubedet_trainer.structures import Detections, Images


class TwoBoxes(Detector):
    """Finds a sure and an unsure box in every image; with `masks`, objects that fill their left halves."""

    def __init__(self, *, masks: bool) -> None:
        super().__init__(Task(num_classes=3))
        self._masks = masks

    def detect(self, images: Images, scale_factors: Tensor) -> list[Detections]:
        boxes = torch.tensor([[4.0, 6.0, 23.0, 15.0], [0.0, 0.0, 9.0, 9.0]])
        masks = torch.zeros(2, 28, 28)
        masks[..., :14] = 1
        return [
            Detections(
                boxes=boxes,
                scores=torch.tensor([0.9, 0.2]),
                labels=torch.tensor([2, 1]),
                masks=masks if self._masks else None,
            )
        ]


def run(source: Path, output: Path, *, masks: bool = False, recipe: str = "smoke_faster_rcnn") -> Prediction:
    detector = TrainedDetector(
        model=TwoBoxes(masks=masks).eval(),
        recipe=recipes.read_recipe(recipe),
        classes=("cat", "dog"),
        device=torch.device("cpu"),
    )
    return predict.predict_folder(detector, source=source, output=output)


def read(file: Path) -> NDArray[np.uint8]:
    pixels = images.decode(file.read_bytes())
    assert isinstance(pixels, np.ndarray)
    return pixels


def test_a_folder_gives_pictures_and_a_coco_file(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", "c.JPEG"):
        make_image(tmp_path / "in", name)
    (tmp_path / "in/notes.txt").write_text("not an image")
    prediction = run(tmp_path / "in", tmp_path / "out")
    assert [file.name for file in prediction.pictures] == ["a.jpg", "b.png", "c.JPEG"]
    assert all(read(file).shape == (48, 64, 3) for file in prediction.pictures)
    content = json.loads(prediction.file.read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.jpg", "b.png", "c.JPEG"]
    assert content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert content["annotations"][1] == {
        "id": 2,
        "image_id": 2,
        "category_id": 2,
        "score": pytest.approx(0.9),
        "bbox": [4.0, 6.0, 20.0, 10.0],
    }
    assert prediction.num_detections == len(content["annotations"]) == 3


def test_masks_are_written_at_the_size_of_the_image_and_drawn(tmp_path: Path) -> None:
    for number, (width, height) in enumerate([(64, 48), (40, 56)]):
        make_image(tmp_path / "in", f"{number}.png", width=width, height=height)
    boxes, masks = (run(tmp_path / "in", tmp_path / f"out-{with_}", masks=with_) for with_ in (False, True))
    content = json.loads(masks.file.read_text())
    for record, (width, height) in zip(content["annotations"], [(64, 48), (40, 56)], strict=True):
        mask = coco_mask.decode(record["segmentation"])
        assert mask.shape == (height, width)
        assert mask[6:16, 4:14].all()
        assert mask.sum() == record["area"] == 100
    for plain, masked in zip(boxes.pictures, masks.pictures, strict=True):
        assert not np.array_equal(read(plain), read(masked))


def test_one_image_is_enough(tmp_path: Path) -> None:
    prediction = run(make_image(tmp_path, "a.jpg"), tmp_path / "out")
    assert [file.name for file in prediction.pictures] == ["a.jpg"]


def test_the_images_themselves_are_never_overwritten(tmp_path: Path) -> None:
    image = make_image(tmp_path, "a.jpg")
    before = image.read_bytes()
    with pytest.raises(InvalidInput, match="must differ from the folder of the images"):
        run(tmp_path, tmp_path)
    assert image.read_bytes() == before


def test_nothing_to_predict_is_missing_input(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no image there"):
        run(tmp_path, tmp_path / "out")


def test_a_detector_that_needs_proposals_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="smoke_fast_rcnn needs the proposals of its images"):
        run(make_image(tmp_path, "a.jpg"), tmp_path / "out", recipe="smoke_fast_rcnn")


@pytest.mark.parametrize("kind", ["cut", "text", "empty", "folder", "FIFO", "device", "bomb"])
def test_a_folder_is_never_given_up_for_one_file(kind: str, tmp_path: Path) -> None:
    for name in ("a.jpg", "c.png"):
        make_image(tmp_path / "in", name)
    broken = tmp_path / "in/b.jpg"
    match kind:
        case "cut":
            broken.write_bytes((tmp_path / "in/a.jpg").read_bytes()[:300])
        case "text" | "empty":
            broken.write_text("no picture" if kind == "text" else "")
        case "folder":
            broken.mkdir()
        case "FIFO":
            os.mkfifo(broken)
        case "device":
            broken.symlink_to("/dev/zero")
        case "bomb":
            data = bytearray((tmp_path / "in/c.png").read_bytes())
            data[16:24] = struct.pack(">II", 40_000, 40_000)
            data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
            broken.write_bytes(data)
    prediction = run(tmp_path / "in", tmp_path / "out")
    assert [file.name for file in prediction.pictures] == ["a.jpg", "c.png"]
    content = json.loads(prediction.file.read_text())
    assert [(image["id"], image["file_name"]) for image in content["images"]] == [(1, "a.jpg"), (2, "c.png")]
    assert {record["image_id"] for record in content["annotations"]} == {1, 2}
    (line,) = prediction.left_out
    assert line.startswith(f"{broken}: ")


@pytest.mark.parametrize("name", ["picture", "a b#?%20.jpg", "划痕.png", "x.GIF", "y.ppm"])
def test_any_name_is_written(name: str, tmp_path: Path) -> None:
    suffix = Path(name).suffix.lower() or ".jpg"
    make_image(tmp_path, f"made{suffix}").rename(tmp_path / name)
    prediction = run(tmp_path / name, tmp_path / "out [1]")
    assert prediction.left_out == []
    (picture,) = prediction.pictures
    assert picture.name.startswith(name)
    assert images.read_image(picture).shape == (48, 64, 3)


LONGEST_NAME = "n" * 251


@pytest.mark.parametrize(
    ("name", "width", "written"),
    [
        ("x.ppm", 66_000, "x.ppm.png"),
        ("x.png", 66_000, "x.png"),
        ("x.ppm", 60, "x.ppm.jpg"),
        (f"{LONGEST_NAME}.ppm", 60, f"{LONGEST_NAME}.jpg"),
    ],
)
def test_a_picture_of_any_size_and_length_of_name_is_written(
    name: str, width: int, written: str, tmp_path: Path
) -> None:
    make_image(tmp_path / "in", name, width=width, height=40)
    (picture,) = run(tmp_path / "in", tmp_path / "out").pictures
    assert picture == tmp_path / "out" / written
    assert read(picture).shape == (40, width, 3)
