"""PASCAL VOC's annotations, as the COCO files that they become."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from dataset_builders import convert_to_voc, make_image, voc_object, write_voc
from kubedet_trainer.commands.data import check_data
from kubedet_trainer.contract import Environment
from kubedet_trainer.data import coco, prepare, voc
from kubedet_trainer.errors import InvalidInput, MissingInput
from kubedet_trainer.settings import DatasetSettings, read_dataset_settings

TRAIN, MORE, TEST = (
    f"{name}.txt"
    for name in (
        "VOC2007/ImageSets/Main/trainval",
        "VOC2012/ImageSets/Main/trainval",
        "VOC2007/ImageSets/Main/test",
    )
)
DOG = voc_object("dog", (1, 2, 30, 40))


def read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def test_photographs_in_voc_form_load_as_their_coco_files_do(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data/bccd"
    settings = convert_to_voc(folder, splits=["train", "val"], root=tmp_path / "voc")
    local = prepare.prepare_dataset(settings, tmp_path / "work")
    for split, name in ((local.train, "train"), (local.val, "val")):
        found = coco.load_annotations(split.annotations, cache=tmp_path / "cache")
        expected = coco.load_annotations(folder / f"instances_{name}.json", cache=tmp_path / "cache")
        coco.require_images(found, split.images)
        np.testing.assert_array_equal(found.boxes, expected.boxes)
        np.testing.assert_array_equal(found.box_offsets, expected.box_offsets)
        np.testing.assert_array_equal(found.sizes, expected.sizes)
        assert found.classes == ("Platelets", "RBC", "WBC")
        names = np.array(["", *found.classes]), np.array(["", *expected.classes])
        np.testing.assert_array_equal(names[0][found.labels], names[1][expected.labels])


def test_years_are_joined_and_corners_counted_from_zero(tmp_path: Path) -> None:
    cat = voc_object("cat", (64, 48, 64, 48), more="<difficult>1</difficult>")
    part = "<part><name>head</name><bndbox><xmin>5</xmin></bndbox></part>"
    car = voc_object("car", (0, 0.5, 64, 48), more=f"<difficult>0</difficult>{part}")
    settings = write_voc(
        tmp_path, sets={TRAIN: {"000005": DOG + cat, "000007": ""}, MORE: {"2008_000002": car}, TEST: {}}
    )
    local = prepare.prepare_dataset(settings, tmp_path / "work")
    content = read(local.train.annotations)
    assert [record["name"] for record in content["categories"]] == list(voc.CLASSES)
    assert content["images"] == [
        {"id": number, "file_name": name, "width": 64, "height": 48}
        for number, name in enumerate(
            (
                "VOC2007/JPEGImages/000005.jpg",
                "VOC2007/JPEGImages/000007.jpg",
                "VOC2012/JPEGImages/2008_000002.jpg",
            ),
            start=1,
        )
    ]
    columns = ("image_id", "category_id", "bbox", "ignore")
    assert [[record[name] for name in columns] for record in content["annotations"]] == [
        [1, 12, [0, 1, 30, 39], 0],
        [1, 8, [63, 47, 1, 1], 1],
        [3, 7, [-1, -0.5, 65, 48.5], 0],
    ]
    assert local.train.images == tmp_path
    assert read(local.val.annotations)["images"] == []


def test_other_classes_are_those_of_both_splits(tmp_path: Path) -> None:
    zebra = voc_object("zebra", (1, 1, 9, 9))
    local = prepare.prepare_dataset(
        write_voc(tmp_path, sets={TRAIN: {"1": DOG}, TEST: {"2": zebra}}), tmp_path / "work"
    )
    for split in (local.train, local.val):
        assert [record["name"] for record in read(split.annotations)["categories"]] == ["dog", "zebra"]
    assert read(local.val.annotations)["annotations"][0]["category_id"] == 2


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
def test_a_size_that_is_not_given_is_that_of_the_image(size: str, tmp_path: Path) -> None:
    settings = write_voc(tmp_path, sets={TRAIN: {"1": DOG}, TEST: {}})
    (tmp_path / "VOC2007/Annotations/1.xml").write_text(f"<annotation>{size}{DOG}</annotation>")
    make_image(tmp_path / "VOC2007/JPEGImages", "1.jpg", width=96, height=80)
    local = prepare.prepare_dataset(settings, tmp_path / "work")
    (image,) = read(local.train.annotations)["images"]
    assert (image["width"], image["height"]) == (96, 80)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("<object>", "not XML"),
        (DOG.replace("<name>dog</name>", ""), "object[0]: name: absent, must be the class"),
        (DOG + "<object><name>dog</name></object>", "object[1]: bndbox: absent"),
        (DOG.replace("<xmin>1<", "<xmin>one<"), "bndbox.xmin: got 'one', must be a number"),
        (DOG.replace("<ymax>40</ymax>", ""), "bndbox.ymax: absent, must be a number"),
        (DOG.replace(">40<", ">nan<"), "bndbox.ymax: got 'nan', must be a number"),
        (voc_object("dog", (9, 1, 8, 5)), "bndbox: got 9,1 to 8,5, must have xmin <= xmax and ymin <= ymax"),
        (
            voc_object("dog", (1, 1, 66, 9)),
            "bndbox: got 1,1 to 66,9, must lie within the image's 64x48 pixels",
        ),
        (voc_object("dog", (-1, 1, 9, 9)), "must lie within the image's 64x48 pixels [box-outside]"),
        (voc_object("dog", (1, 1, 9, 9), more="<difficult>yes</difficult>"), "difficult: got 'yes'"),
    ],
)
def test_a_broken_rule_is_named_with_file_field_and_value(content: str, said: str, tmp_path: Path) -> None:
    settings = write_voc(tmp_path, sets={TRAIN: {"000005": content}, TEST: {}})
    with pytest.raises(InvalidInput) as refused:
        prepare.prepare_dataset(settings, tmp_path / "work")
    assert f"{tmp_path}/VOC2007/Annotations/000005.xml: " in str(refused.value)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ("trainval.txt", "must be image sets as VOC2007/ImageSets/Main/trainval.txt"),
        ("VOC2007/ImageSets/Main/val.txt", "val.txt: absent"),
        (f"{TRAIN},VOC2007/ImageSets/Main/dog_train.txt", "dog_train.txt: line 1: got '000005 -1'"),
    ],
)
def test_a_list_that_is_none_is_refused(train: str, said: str, tmp_path: Path) -> None:
    write_voc(tmp_path, sets={TRAIN: {"000005": DOG}, TEST: {}})
    (tmp_path / "VOC2007/ImageSets/Main/dog_train.txt").write_text("000005 -1\n")
    settings = DatasetSettings(
        uri=tmp_path.as_uri(), format="VOC", train_annotations=train, val_annotations=TEST
    )
    with pytest.raises((InvalidInput, MissingInput)) as refused:
        prepare.prepare_dataset(settings, tmp_path / "work")
    assert said in str(refused.value)


def test_check_data_lists_what_is_wrong_with_annotations_and_images(tmp_path: Path) -> None:
    flat = voc_object("dog", (9, 1, 8, 5))
    write_voc(tmp_path, sets={TRAIN: {"1": DOG + flat, "2": DOG}, TEST: {"3": DOG, "4": flat}})
    (tmp_path / "VOC2007/Annotations/3.xml").unlink()
    make_image(tmp_path / "VOC2007/JPEGImages", "1.jpg", width=32)
    make_image(tmp_path / "VOC2007/JPEGImages", "4.jpg")
    options = ["--dataset", str(tmp_path), "--format", "VOC", "--train-annotations", TRAIN]
    result = CliRunner().invoke(check_data, [*options, "--work-directory", str(tmp_path / "work")])
    assert result.exit_code == 65
    found = [line.split("VOC2007/")[1] for line in result.stdout.splitlines()]
    box = "bndbox: got 9,1 to 8,5, must have xmin <= xmax and ymin <= ymax [zero-area]"
    assert found == [
        f"Annotations/1.xml: object[1]: {box}",
        "Annotations/3.xml: absent, must be there: its image is listed [missing-annotation]",
        f"Annotations/4.xml: object[0]: {box}",
        "JPEGImages/1.jpg: image 1: is 32x48, must be 64x48 as its record says [image-size]",
        "JPEGImages/2.jpg: image 2: cannot be read (No such file or directory), must be a file "
        "[missing-image]",
    ]


def test_files_are_converted_once_and_anew_when_they_change(tmp_path: Path) -> None:
    settings = write_voc(tmp_path / "voc", sets={TRAIN: {"1": DOG}, TEST: {}})
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "voc").rglob("*")}
    first = prepare.prepare_dataset(settings, tmp_path / "work")
    written = first.train.annotations.stat().st_mtime_ns
    assert prepare.prepare_dataset(settings, tmp_path / "work") == first
    assert first.train.annotations.stat().st_mtime_ns == written
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "voc").rglob("*")} == before
    file = tmp_path / "voc/VOC2007/Annotations/1.xml"
    file.write_text(file.read_text().replace("dog", "cat"))
    os.utime(file, ns=(0, 0))
    second = prepare.prepare_dataset(settings, tmp_path / "work")
    assert read(second.train.annotations)["annotations"][0]["category_id"] == 8


def test_shapes_are_not_voc() -> None:
    settings = DatasetSettings(
        uri="synthetic://shapes", format="VOC", train_annotations=TRAIN, val_annotations=TEST
    )
    with pytest.raises(InvalidInput, match=r"must be COCO for synthetic://shapes"):
        prepare.prepare_dataset(settings, Path("unused"))


def test_the_lists_of_the_zoo_are_the_defaults() -> None:
    variables: dict[str, str] = {
        Environment.DATASET_URI: "s3://bucket/voc",
        Environment.DATASET_FORMAT: "VOC",
    }
    settings = read_dataset_settings(variables)
    assert (settings.format, settings.train_annotations, settings.val_annotations) == (
        "VOC",
        f"{TRAIN},{MORE}",
        TEST,
    )
