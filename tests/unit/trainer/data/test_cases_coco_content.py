"""Kinds of classes, hostile documents and files of COCO data sets that users have reported."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from coco_documents import Document, changed, document, of_each, refused, write
from dataset_builders import (
    DATA,
    coco_split,
    load_coco,
    load_truth,
    make_image,
)
from kubedet_trainer.data import arrays
from kubedet_trainer.data.arrays import Reading
from kubedet_trainer.errors import InvalidInput, MissingInput


def categories(*names_and_parents: tuple[str, str]) -> Callable[[Document], None]:
    def change(content: Document) -> None:
        content["categories"] = [
            {"id": number, "name": name, "supercategory": parent}
            for number, (name, parent) in enumerate(names_and_parents)
        ]

    return change


def test_a_category_that_only_groups_the_others_is_no_class_and_it_is_said(tmp_path: Path) -> None:
    found = changed(tmp_path, categories(("pets", "none"), ("cat", "pets"), ("dog", "pets")))
    assert found.classes == ("cat", "dog")
    assert found.labels.tolist() == [1, 2, 1, 2]
    assert "category 'pets' is no class" in found.notes[0]


def test_a_group_named_like_its_only_class_is_no_class(tmp_path: Path) -> None:
    def change(content: Document) -> None:
        categories(("cat", "none"), ("cat", "cat"))(content)
        of_each("annotations", lambda record: record.update(category_id=1))(content)

    found = changed(tmp_path, change)
    assert found.classes == ("cat",)
    assert found.labels.tolist() == [1] * 4


@pytest.mark.parametrize(
    "given",
    [
        (("pets", "none"), ("cat", "pets"), ("dog", "animals")),
        (("pets", "none"), ("cat", "none"), ("dog", "none")),
    ],
)
def test_a_class_without_objects_stays_a_class(given: tuple[tuple[str, str], ...], tmp_path: Path) -> None:
    found = changed(tmp_path, categories(*given))
    assert found.classes == ("pets", "cat", "dog")


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    found = changed(tmp_path, lambda content: None, classes=("dog", "cat"))
    assert found.labels.tolist() == [2, 1, 2, 1]


def test_objects_of_a_class_that_training_lacks_are_refused_once_a_class(tmp_path: Path) -> None:
    message = refused(tmp_path, lambda content: None, classes=("cat", "cow"))
    assert "has 2 objects of the category 'dog', must have only those of the classes cat, cow" in message


def test_some_classes_only(tmp_path: Path) -> None:
    found = changed(tmp_path, lambda content: None, classes=("dog",), leave_out=True, truth=True)
    assert found.labels.tolist() == [1, 1]
    assert found.left_out == {"objects of other classes": 2}
    assert found.truth is not None
    assert found.truth.labels.tolist() == [1, 1]


def test_an_unknown_class_is_refused_with_the_nearest(tmp_path: Path) -> None:
    message = refused(tmp_path, lambda content: None, classes=("dogs",), leave_out=True, required=True)
    assert (
        "got 'dogs' in data.classes, must be one of the categories: cat, dog. Did you mean 'dog'?" in message
    )


HOSTILE = {
    "deep lists": '{"images": ' + "[" * 100_000,
    "deep objects": '{"a":' * 100_000,
    "a number without end": '{"images": [{"id": 1' + "0" * 1_000_000,
    "an endless exponent": '{"images": [{"id": 1e' + "9" * 1_000_000 + "}]}",
    "not UTF-8": '{"images": ["\udcff',
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_json_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(HOSTILE[kind].encode("utf-8", "surrogateescape"))
    with pytest.raises(InvalidInput) as error:
        load_coco(file, cache=tmp_path / "cache")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "name",
    [
        "../outside.jpg",
        "/etc/passwd",
        "a/../../x.jpg",
        "..\\outside.jpg",
        "C:\\x.jpg",
        "a\0.jpg",
        "\ud800.jpg",
        "",
    ],
)
def test_a_file_name_never_leaves_its_folder(name: str, tmp_path: Path) -> None:
    make_image(tmp_path, "outside.jpg")
    message = refused(tmp_path, lambda content: content["images"][0].update(file_name=name))
    assert "images[0].file_name: got '" in message
    assert message.isprintable()


def test_several_files_are_one_split(tmp_path: Path) -> None:
    whole = document()
    expected = load_coco(write(tmp_path, whole), cache=tmp_path / "cache", truth=True)
    files = []
    for number in (1, 2):
        part = {
            "images": [record for record in whole["images"] if record["id"] == number],
            "annotations": [record for record in whole["annotations"] if record["image_id"] == number],
            "categories": whole["categories"][:: 3 - 2 * number],
        }
        files.append(tmp_path / f"part{number}.json")
        files[-1].write_text(json.dumps(part))
    found = arrays.load_annotations(coco_split(*files), cache=tmp_path / "c", reading=Reading(truth=True))
    assert found.classes == expected.classes
    for name in ("image_ids", "sizes", "boxes", "labels", "crowd", "box_offsets", "name_bytes"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


def test_equal_ids_in_several_files_are_different_images(tmp_path: Path) -> None:
    files = [write(tmp_path / name, document()) for name in ("a", "b")]
    found = arrays.load_annotations(coco_split(*files), cache=tmp_path / "cache")
    assert found.image_ids.tolist() == [1, 2, 3, 4]
    assert found.box_offsets.tolist() == [0, 2, 4, 6, 8]


def test_ignored_objects_and_crowds_stay_in_what_evaluation_compares_with(tmp_path: Path) -> None:
    content = document()
    content["annotations"][0]["ignore"] = 1
    content["annotations"][1]["iscrowd"] = True
    file = write(tmp_path, content)
    truth = load_truth(file, cache=tmp_path / "cache")
    assert truth.ignored.tolist() == [True, False, False, False]
    assert truth.crowd.tolist() == [False, True, False, False]
    assert load_coco(file, cache=tmp_path / "cache").left_out == {"crowds": 1, "ignored objects": 1}


@pytest.mark.parametrize("kind", ["FIFO", "device", "folder", "absent"])
def test_only_regular_files_are_read(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    match kind:
        case "FIFO":
            os.mkfifo(file)
        case "device":
            file.symlink_to("/dev/zero")
        case "folder":
            file.mkdir()
    with pytest.raises(MissingInput if kind == "absent" else InvalidInput, match=r"x\.json: "):
        load_coco(file, cache=tmp_path / "cache")


def test_the_pixel_limit_of_records_follows_the_recipe() -> None:
    assert DATA.max_image_pixels == Reading().max_pixels
