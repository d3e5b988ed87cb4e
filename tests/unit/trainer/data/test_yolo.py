"""YOLO's data sets, as the tools that write them lay them out."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dataset_builders import coco_split, local_splits, make_image
from kubedet_trainer.data import arrays, prepare
from kubedet_trainer.data.arrays import Reading
from kubedet_trainer.data.table import AnnotationTable
from kubedet_trainer.errors import InvalidInput, MissingInput
from kubedet_trainer.settings import DatasetSettings

BOX = "1 0.25 0.5 0.125 0.25"
"""In an image of 64x48: x 12, y 18, width 8, height 12."""
BOMB = "a: &a [x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 30)}]\n" for before, name in pairwise("abcdefghij")
)
"""Some hundred bytes of YAML whose whole text would be 10^13 bytes long."""
POLYGON = "0 0.125 0.25 0.375 0.25 0.375 0.75"


def write(
    root: Path,
    description: Mapping[str, Any],
    *,
    labels: Mapping[str, str | None],
    file: str = "data.yaml",
) -> DatasetSettings:
    """Write ``data.yaml``, and for each image its label file; None for no label file."""
    for number, (image, text) in enumerate(labels.items()):
        path = root / image
        make_image(path.parent, path.name, seed=number)
        if text is not None:
            label = root / "labels".join(image.rsplit("images", 1)).replace(path.suffix, ".txt")
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(text)
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(yaml.safe_dump(dict(description)))
    return DatasetSettings(uri=root.as_uri(), format="YOLO", train_annotations=file, val_annotations=file)


def read(settings: DatasetSettings, split: str = "train", *, masks: bool = False) -> AnnotationTable:
    train, val = local_splits(settings, Path("unused"))
    return (train if split == "train" else val).read("need" if masks else "ignore")


def refused(settings: DatasetSettings) -> str:
    """What a job says."""
    local = prepare.prepare_dataset(settings, Path("unused"))
    with pytest.raises((InvalidInput, MissingInput)) as error:
        arrays.load_annotations(local.train, cache=local.train.images / "cache")
    return str(error.value)


LAYOUTS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "Roboflow": (
        "data.yaml",
        {"train": "../train/images", "val": "../valid/images", "nc": 2, "names": ["cat", "dog"]},
        "train/images/a.jpg",
        "valid/images/b.jpg",
    ),
    "Ultralytics": (
        "coco8.yaml",
        {"path": "coco8", "train": "images/train", "val": "images/val", "names": {0: "cat", 1: "dog"}},
        "coco8/images/train/a.jpg",
        "coco8/images/val/b.jpg",
    ),
    "a path of another machine": (
        "data.yaml",
        {
            "path": "/home/somebody/data",
            "train": "images/train",
            "val": "images/val",
            "names": ["cat", "dog"],
        },
        "images/train/a.jpg",
        "images/val/b.jpg",
    ),
    "a description in a folder": (
        "yaml/data.yaml",
        {"train": "../images/train", "val": "../images/val", "names": ["cat", "dog"]},
        "images/train/a.jpg",
        "images/val/b.jpg",
    ),
    "folders in lists": (
        "data.yaml",
        {"train": ["images/train"], "val": ["images/val"], "names": {"0": "cat", "1": "dog"}},
        "images/train/day one/a.PNG",
        "images/val/b.jpeg",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_exports_are_read_as_they_are(layout: str, tmp_path: Path) -> None:
    file, description, train, val = LAYOUTS[layout]
    settings = write(tmp_path, description, labels={train.lower(): f"{BOX}\n{POLYGON}\n", val: ""}, file=file)
    (tmp_path / train.lower()).rename(tmp_path / train)
    found = read(settings)
    assert found.classes == ("cat", "dog")
    assert found.file_names == [train]
    assert found.image_sizes.tolist() == [[48, 64]]
    assert found.labels.tolist() == [2, 1]
    assert found.boxes.tolist() == [[12, 18, 8, 12], [8, 12, 16, 24]]
    assert found.areas.tolist() == [96, 192]
    assert found.problems == ()
    assert read(settings, "val").file_names == [val]


def test_lists_of_images_are_read(tmp_path: Path) -> None:
    description = {"train": "train.txt", "val": "train.txt", "names": ["cat", "dog"]}
    settings = write(tmp_path, description, labels={"images/a.jpg": BOX, "images/b c.jpg": BOX})
    (tmp_path / "train.txt").write_text("./images/b c.jpg\nimages/a.jpg\n\n")
    assert read(settings).file_names == ["images/b c.jpg", "images/a.jpg"]


def test_an_image_without_a_label_file_has_no_objects(tmp_path: Path) -> None:
    description = {"train": "images", "val": "images", "names": ["cat", "dog"]}
    settings = write(tmp_path, description, labels={"images/a.jpg": None, "images/b.jpg": BOX})
    assert read(settings).image_rows.tolist() == [1]


def test_polygons_are_outlines(tmp_path: Path) -> None:
    description = {"train": "images", "val": "images", "names": ["cat", "dog"]}
    settings = write(tmp_path, description, labels={"images/a.jpg": f"{POLYGON}\n{BOX}"})
    found = read(settings, masks=True)
    assert found.outlines is not None
    assert (np.diff(found.outlines.spans).ravel() > 0).tolist() == [True, False]
    (problem,) = found.problems
    assert str(problem).startswith(f"{tmp_path}/labels/a.txt: line 2: segmentation: is absent")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("2 0.5 0.5 0.1 0.1", "line 2: got the class 2, must be a whole number < 2"),
        ("0.5 0.5 0.5 0.1 0.1", "line 2: got the class 0.5, must be a whole number < 2"),
        ("0 0.5 0.5 0.1", "line 2: got '0 0.5 0.5 0.1', must be a class and x, y, width, height"),
        ("0 0.5 0.5 0.1 nan", "must be a class and x, y, width, height"),
        ("cat 0.5 0.5 0.1 0.1", "line 2: got 'cat 0.5 0.5 0.1 0.1'"),
        ("0 0.5 0.5 0.1 0.1 0.9", "or a class and the corners of a polygon"),
        ("0 0.9 0.5 0.4 0.1", "line 2: got box [44.8, 21.6, 25.6, 4.8] in pixels, must lie within"),
        ("0 320 240 20 10", "must lie within the image's 64x48 pixels"),
        ("0 0.5 0.5 0 0.1", "must have finite corners and width and height > 0"),
        ("0 1e999 0.5 0.1 0.1", "must be a class and"),
    ],
)
def test_a_bad_line_is_named_by_file_line_and_value(line: str, said: str, tmp_path: Path) -> None:
    description = {"train": "images", "val": "images", "names": ["cat", "dog"]}
    settings = write(tmp_path, description, labels={"images/a.jpg": f"{BOX}\n{line}\n"})
    message = refused(settings)
    assert message.startswith(f"{tmp_path}/labels/a.txt: line 2: ")
    assert said in message


@pytest.mark.parametrize(
    ("description", "said"),
    [
        ("[1, 2]", "data.yaml: got list, must be a mapping"),
        ("a: [", "data.yaml: not YAML"),
        ("{" * 50_000, "data.yaml: not YAML"),
        ("train: images\nval: images\n", "names: got None, must name the classes"),
        ("train: images\nnames: {0: cat, 2: dog}\n", "names: got {0: 'cat', 2: 'dog'}, must name"),
        ("train: images\nnames: [cat, cat]\n", "names: got 'cat' twice"),
        ("train: images\nnames: [cat, '']\n", "names: got no name for class 1, must be text"),
        ("train: images\nnc: 0\n", "names: got None, must name the classes"),
        ("train: images\nnames: [cat]\nkpt_shape: [3]\n", "kpt_shape: got ['3'], must be the number of"),
        ("train: images\nnames: [cat]\nkpt_shape: [3, 4]\n", "kpt_shape: got ['3', '4'], must be"),
        (f"{BOMB}train: images\nnames: *j\n", "names: got [["),
        ("names: [cat]\n", "train: got None, must be a folder or a list of images"),
        ("train: nowhere\nnames: [cat]\n", "train: got 'nowhere', must be a folder or a list of images"),
        ("train: ../../etc\nnames: [cat]\n", "train: got '../../etc', must be"),
        ("train: /etc\nnames: [cat]\n", "train: got '/etc', must be"),
        ("path: ../../../..\ntrain: etc\nnames: [cat]\n", "train: got 'etc', must be"),
        ('train: "a\\0b"\nnames: [cat]\n', "train: got"),
    ],
)
def test_a_bad_description_is_refused_in_one_line(description: str, said: str, tmp_path: Path) -> None:
    root = tmp_path / "a/b"
    settings = write(root, {}, labels={"images/a.jpg": BOX})
    (root / "data.yaml").write_text(description)
    message = refused(settings)
    assert said in message
    assert "\n" not in message


def test_a_list_never_leaves_the_data_set(tmp_path: Path) -> None:
    make_image(tmp_path, "outside.jpg")
    root = tmp_path / "inner"
    settings = write(root, {"train": "train.txt", "names": ["cat", "dog"]}, labels={"images/a.jpg": BOX})
    (root / "train.txt").write_text("images/a.jpg\n../outside.jpg\n")
    assert f"train.txt: line 2: got '../outside.jpg', must be an image below {root}" in refused(settings)


def test_an_export_is_byte_for_byte_the_coco_file_that_says_the_same(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images, annotations, labels = [], [], {}
    for number in range(1, 8):
        name, lines = f"images/{number:02}.jpg", []
        images.append({"id": number, "file_name": name, "width": 64, "height": 48})
        for _ in range(number % 4):
            width, height = random.integers(100, 2000, 2) / 100
            x, y = round(random.uniform(0, 64 - width), 2), round(random.uniform(0, 48 - height), 2)
            label = int(random.integers(2))
            shares = ((x + width / 2) / 64, (y + height / 2) / 48, width / 64, height / 48)
            lines.append(" ".join([str(label), *(f"{share:.6f}" for share in shares)]))
            box = [x, y, float(width), float(height)]
            annotations.append({"image_id": number, "category_id": label + 1, "bbox": box})
        labels[name] = "\n".join(lines)
    settings = write(tmp_path, {"train": "images", "names": ["cat", "dog"]}, labels=labels)
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (tmp_path / "x.json").write_text(json.dumps(document))
    split = prepare.prepare_dataset(settings, tmp_path).train
    found, expected = (
        arrays.load_annotations(split, cache=tmp_path / "cache", reading=Reading(truth=True))
        for split in (split, coco_split(tmp_path / "x.json", images=tmp_path))
    )
    names = {file.name for file in expected.folder.iterdir()}
    assert {file.name for file in found.folder.iterdir()} == names
    for name in names:
        assert (found.folder / name).read_bytes() == (expected.folder / name).read_bytes(), name


DESCRIPTION: Mapping[str, Any] = {"train": "images", "val": "images", "names": ["cat", "dog"]}


@pytest.mark.parametrize(
    ("shape", "keypoints"), [([1, 3], "0.1 0.1 2"), ([2, 3], "0.1 0.1 2 0 0 0"), ([3, 2], "0 0 0.9 0.9 0 0")]
)
def test_of_an_object_with_keypoints_the_box_is_taken(
    shape: list[int], keypoints: str, tmp_path: Path
) -> None:
    labels = {"images/a.jpg": f"{BOX} {keypoints}\n{BOX}"}
    found = read(write(tmp_path, {**DESCRIPTION, "kpt_shape": shape}, labels=labels))
    assert found.boxes.tolist() == [[12, 18, 8, 12]] * 2
    assert found.problems == ()


def test_a_line_that_does_not_fit_the_keypoints_is_refused(tmp_path: Path) -> None:
    labels = {"images/a.jpg": f"{BOX} 0.1 0.1"}
    message = refused(write(tmp_path, {**DESCRIPTION, "kpt_shape": [2, 3]}, labels=labels))
    assert "must be a class and x, y, width, height, and the keypoints of kpt_shape: 11 numbers" in message


def test_keypoints_that_nothing_announces_are_refused_with_the_remedy(tmp_path: Path) -> None:
    message = refused(write(tmp_path, DESCRIPTION, labels={"images/a.jpg": f"{BOX} 0.1 0.1 2"}))
    assert "for keypoints, data.yaml must have kpt_shape" in message


@pytest.mark.parametrize(
    ("given", "classes"),
    [
        ("names: [no, yes]", ("no", "yes")),
        ("names: {0: 1.5, 1: 2024-01-01}", ("1.5", "2024-01-01")),
        ("names: [' cat ', dog]", ("cat", "dog")),
        ("nc: 2", ("class_0", "class_1")),
        ("names:\nnc: 2\nkpt_shape:", ("class_0", "class_1")),
    ],
)
def test_classes_are_called_what_is_written(given: str, classes: tuple[str, ...], tmp_path: Path) -> None:
    settings = write(tmp_path, DESCRIPTION, labels={"images/a.jpg": BOX})
    (tmp_path / "data.yaml").write_text(f"train: images\nval: images\n{given}\n")
    assert read(settings).classes == classes


@pytest.mark.parametrize("key", ["validation", "valid"])
def test_the_validation_split_may_have_another_name(key: str, tmp_path: Path) -> None:
    description = {"train": "images", key: "more/images", "names": ["cat", "dog"]}
    settings = write(tmp_path, description, labels={"images/a.jpg": BOX, "more/images/b.jpg": BOX})
    assert read(settings, "val").file_names == ["more/images/b.jpg"]


def test_an_absent_validation_split_is_refused_with_the_remedy(tmp_path: Path) -> None:
    settings = write(tmp_path, {"train": "images", "names": ["cat", "dog"]}, labels={"images/a.jpg": BOX})
    local = prepare.prepare_dataset(settings, tmp_path)
    assert local.val is not None
    with pytest.raises(InvalidInput, match=r"val: got None, must be .*validate: false \(--no-val\)"):
        local.val.read("ignore")


def test_a_list_may_have_backslashes_and_names_of_any_characters(tmp_path: Path) -> None:
    odd = "images/-a\x85 b\u2028.jpg"
    labels = {"images/train/a.jpg": BOX, odd: BOX}
    settings = write(tmp_path, {**DESCRIPTION, "train": "train.txt"}, labels=labels)
    (tmp_path / "train.txt").write_text(f"images\\train\\a.jpg\r\n{odd}\r\n", newline="")
    assert read(settings).file_names == ["images/train/a.jpg", odd]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16-le", "utf-16-be"])
def test_lists_and_labels_are_read_by_their_byte_order_mark(encoding: str, tmp_path: Path) -> None:
    settings = write(tmp_path, {**DESCRIPTION, "train": "train.txt"}, labels={"images/é.jpg": BOX})
    mark = "" if encoding == "utf-8-sig" else "\ufeff"
    for file, text in (("train.txt", "images/é.jpg\r\n"), ("labels/é.txt", f"{BOX}\r\n")):
        (tmp_path / file).write_bytes(f"{mark}{text}".encode(encoding))
    found = read(settings)
    assert found.file_names == ["images/é.jpg"]
    assert found.boxes.tolist() == [[12, 18, 8, 12]]


def test_linked_folders_are_read_once(tmp_path: Path) -> None:
    settings = write(tmp_path, DESCRIPTION, labels={"images/a.jpg": BOX, "store/images/b.jpg": BOX})
    (tmp_path / "images/more").symlink_to(tmp_path / "store/images")
    (tmp_path / "labels/more").symlink_to(tmp_path / "store/labels")
    (tmp_path / "images/back").symlink_to(tmp_path)
    found = read(settings)
    assert found.file_names == ["images/a.jpg", "images/more/b.jpg"]
    assert found.image_rows.tolist() == [0, 1]


def test_files_with_labels_that_are_not_called_images_are_told(tmp_path: Path) -> None:
    settings = write(tmp_path, DESCRIPTION, labels={"images/a.jpg": BOX, "images/b.jpg": BOX})
    (tmp_path / "images/b.jpg").rename(tmp_path / "images/b.heic")
    (tmp_path / "images/.DS_Store").touch()
    (note,) = read(settings).notes
    assert "data.yaml: train: left out 1 files with labels, such as 'images/b.heic': must be images" in note


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    settings = write(tmp_path, DESCRIPTION, labels={"images/a.jpg": BOX})
    os.rename(tmp_path / "images/a.jpg", os.fsencode(tmp_path / "images") + b"/caf\xe9.jpg")
    message = refused(settings)
    assert "caf\\udce9.jpg: must be valid Unicode text; rename the file" in message
    message.encode()
