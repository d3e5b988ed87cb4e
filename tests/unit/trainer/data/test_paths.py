"""No character of a path breaks anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dataset_builders import annotation_record, image_record, make_image, write_annotations
from kubedet_trainer.data import arrays, prepare
from kubedet_trainer.errors import MissingInput
from kubedet_trainer.settings import DatasetSettings

NAMES = [
    "my drive",
    "50% #1 %20",
    "a?b&c=d",
    "[x] 'y' \"z\"",
    "划痕",
    "a,b",
    "new\nline",
    "8:30",
    "-x",
    "a\x85b",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_data_set_lies_in_any_folder_and_has_files_of_any_name(name: str, tmp_path: Path) -> None:
    root = tmp_path / name
    make_image(root / name, f"{name}.jpg")
    file = write_annotations(
        root / f"{name}.json",
        images=[image_record(1) | {"file_name": f"{name}.jpg"}],
        annotations=[annotation_record(1, image=1)],
    )
    settings = DatasetSettings(
        uri=root.as_uri(), train_images=name, train_annotations=file.name, validate=False
    )
    split = prepare.prepare_dataset(settings, tmp_path / "work").train
    annotations = arrays.load_annotations(split, cache=tmp_path / f"cache {name}")
    arrays.require_images(annotations, split.images)
    assert annotations.file_name(0) == f"{name}.jpg"


@pytest.mark.parametrize("place", [b"inner/../data", b"caf\xe9"])
@pytest.mark.parametrize("form", ["COCO", "YOLO"])
def test_a_folder_is_named_by_any_path_and_any_bytes(form: str, place: bytes, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + place))
    make_image(root / "images", "1.jpg")
    write_annotations(
        root / "train.json", images=[image_record(1)], annotations=[annotation_record(1, image=1)]
    )
    (root / "data.yaml").write_text("train: images\nnames: [cat]\n")
    (root / "labels").mkdir()
    (root / "labels/1.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    settings = DatasetSettings(
        uri=root.as_uri(),
        format=form,
        train_images="images",
        train_annotations="train.json" if form == "COCO" else "data.yaml",
        validate=False,
    )
    split = prepare.prepare_dataset(settings, tmp_path / "work").train
    annotations = arrays.load_annotations(split, cache=tmp_path / "cache")
    arrays.require_images(annotations, split.images)
    assert len(annotations.boxes) == 1


@pytest.mark.parametrize("text", ["1.json, 2.json", "1.json,2.json,", ",1.json, ,2.json"])
def test_names_separated_by_commas_are_several_files(text: str, tmp_path: Path) -> None:
    for number in (1, 2):
        make_image(tmp_path / "images", f"{number}.jpg")
        write_annotations(
            tmp_path / f"{number}.json",
            images=[image_record(number)],
            annotations=[annotation_record(number, image=number)],
        )
    settings = DatasetSettings(
        uri=tmp_path.as_uri(), train_images="images", train_annotations=text, validate=False
    )
    split = prepare.prepare_dataset(settings, tmp_path / "work").train
    assert arrays.load_annotations(split, cache=tmp_path / "cache").image_ids.tolist() == [1, 2]


def test_a_comma_alone_names_no_file(tmp_path: Path) -> None:
    settings = DatasetSettings(uri=tmp_path.as_uri(), train_annotations=",", validate=False)
    split = prepare.prepare_dataset(settings, tmp_path / "work").train
    with pytest.raises(MissingInput, match="/,: no such annotation file"):
        arrays.load_annotations(split, cache=tmp_path / "cache")
