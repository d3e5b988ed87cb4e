"""Kinds of deviations in COCO files that users have reported: each is read, or refused by name."""

from __future__ import annotations

import gzip
import json
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset_builders import (
    DATA,
    annotation_record,
    coco_split,
    image_record,
    load_coco,
    load_truth,
    make_image,
    problems_of,
)
from kubedet_trainer.data import arrays
from kubedet_trainer.data.arrays import Annotations, Reading
from kubedet_trainer.errors import InvalidInput, MissingInput

Document = dict[str, Any]
POLYGON = [4, 5, 24, 5, 24, 15]
"""Half of the box that all objects have: 100 of 200 pixels."""


def document() -> Document:
    """Two images with two objects each."""
    return {
        "images": [image_record(1), image_record(2)],
        "annotations": [annotation_record(n, image=1 + n % 2, category_id=1 + n // 2) for n in range(4)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def write(root: Path, content: Document) -> Path:
    """Write the file and its images."""
    for number in (1, 2):
        make_image(root / "images", f"{number}.jpg", seed=number)
    file = root / "instances.json"
    file.write_text(json.dumps(content))
    return file


def changed(root: Path, change: Callable[[Document], object], **reading: Any) -> Annotations:
    """The annotations after a change of the document."""
    content = document()
    change(content)
    return load_coco(write(root, content), cache=root / "cache", **reading)


def refused(root: Path, change: Callable[[Document], object], **reading: Any) -> str:
    """What a job says to a changed document."""
    with pytest.raises(InvalidInput) as error:
        changed(root, change, **reading)
    return str(error.value)


def of_each(section: str, change: Callable[[Document], object]) -> Callable[[Document], None]:
    def apply(content: Document) -> None:
        for record in content[section]:
            change(record)

    return apply


def rename_ids(new: Callable[[int], object], *, section: str, field: str) -> Callable[[Document], None]:
    """Replace the ids of a section, and what refers to them."""

    def apply(content: Document) -> None:
        for record in content[section]:
            record["id"] = new(record["id"])
        for record in content["annotations"]:
            record[field] = new(record[field])

    return apply


SOUND = [[4.0, 5.0, 23.0, 14.0]] * 4

IDS: Mapping[str, Callable[[int], object]] = {
    "uuids": lambda number: str(uuid.UUID(int=number)),
    "names": lambda number: f"frame {number}",
    "text of numbers": str,
    "floats that are whole": float,
    "floats that are not": lambda number: number + 0.5,
    "numbers beyond 64 bits": lambda number: 2**70 + number,
    "negative numbers": lambda number: -number,
    "from zero": lambda number: number - 1,
}


@pytest.mark.parametrize("kind", IDS)
@pytest.mark.parametrize(("section", "field"), [("images", "image_id"), ("categories", "category_id")])
def test_ids_only_have_to_be_equal(kind: str, section: str, field: str, tmp_path: Path) -> None:
    found = changed(tmp_path, rename_ids(IDS[kind], section=section, field=field))
    assert found.boxes.tolist() == SOUND
    assert found.labels.tolist() == [1, 2, 1, 2]
    assert found.box_offsets.tolist() == [0, 2, 4]
    assert found.classes == ("cat", "dog")


@pytest.mark.parametrize(("section", "field"), [("images", "image_id"), ("categories", "category_id")])
def test_text_of_a_number_equals_the_number(section: str, field: str, tmp_path: Path) -> None:
    found = changed(tmp_path, of_each(section, lambda record: record.update(id=str(record["id"]))))
    assert found.labels.tolist() == [1, 2, 1, 2]
    assert found.box_offsets.tolist() == [0, 2, 4]
    assert field in annotation_record(1, image=1)


def test_sections_may_come_in_any_order(tmp_path: Path) -> None:
    content = document()
    for record in content["annotations"]:
        record["segmentation"] = [POLYGON]
    expected = load_coco(write(tmp_path, content), cache=tmp_path / "a", masks=True)
    backwards = dict(reversed(content.items()))
    found = load_coco(write(tmp_path, backwards), cache=tmp_path / "b", masks=True)
    for row in range(2):
        assert found.masks(row) == expected.masks(row)
        np.testing.assert_array_equal(found.ground_truth(row)[0], expected.ground_truth(row)[0])


@pytest.mark.parametrize("field", ["iscrowd", "area", "id"])
@pytest.mark.parametrize("absent", [True, False])
def test_absent_and_null_fields_are_filled_in(field: str, absent: bool, tmp_path: Path) -> None:
    def change(record: Document) -> None:
        if absent:
            del record[field]
        else:
            record[field] = None

    content = document()
    of_each("annotations", change)(content)
    file = write(tmp_path, content)
    assert load_coco(file, cache=tmp_path / "cache").boxes.tolist() == SOUND
    truth = load_truth(file, cache=tmp_path / "cache")
    assert truth.areas.tolist() == [200.0] * 4
    assert not truth.crowd.any()


RUNS = {"size": [48, 64], "counts": [100, 40, 48 * 64 - 140]}


@pytest.mark.parametrize(
    ("outline", "area"),
    [([POLYGON], 100.0), ([POLYGON, POLYGON], 200.0), (RUNS, 40.0), ([], 200.0), ("?", 200.0)],
)
def test_an_absent_area_is_the_outlines_else_the_boxs(outline: Any, area: float, tmp_path: Path) -> None:
    content = document()
    for record in content["annotations"]:
        del record["area"]
        record["segmentation"] = outline
    assert load_truth(write(tmp_path, content), cache=tmp_path / "c").areas.tolist() == [area] * 4


def test_an_area_of_zero_is_left_out_and_told(tmp_path: Path) -> None:
    def change(content: Document) -> None:
        content["annotations"][0]["area"] = 0

    found = changed(tmp_path, change)
    assert len(found.boxes) == 3
    assert found.left_out == {"objects whose area is given as 0": 1}


def encode(content: Document, form: str) -> bytes:
    text = json.dumps(content).encode()
    return {
        "BOM": b"\xef\xbb\xbf" + text,
        "UTF-16": json.dumps(content).encode("utf-16"),
        "gzip": gzip.compress(text),
        "gzip with BOM": gzip.compress(b"\xef\xbb\xbf" + text),
    }[form]


@pytest.mark.parametrize("form", ["BOM", "UTF-16", "gzip", "gzip with BOM"])
def test_a_byte_order_mark_and_gzip_are_read(form: str, tmp_path: Path) -> None:
    file = write(tmp_path, document())
    file.write_bytes(encode(document(), form))
    assert load_coco(file, cache=tmp_path / "cache").boxes.tolist() == SOUND


def test_a_damaged_gzip_file_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, document())
    file.write_bytes(gzip.compress(json.dumps(document()).encode())[:-30])
    with pytest.raises(InvalidInput, match=r"instances\.json: not "):
        load_coco(file, cache=tmp_path / "cache")


@pytest.mark.parametrize("section", ["images", "annotations", "categories"])
@pytest.mark.parametrize(("value", "got"), [({"1": {}}, "an object"), (None, "a single value")])
def test_sections_that_are_no_lists_are_refused(
    section: str, value: object, got: str, tmp_path: Path
) -> None:
    assert f"instances.json: {section}: got {got}, must be a list" in refused(
        tmp_path, lambda content: content.update({section: value})
    )


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("area", NAN, "annotation 1 of image 2: got area nan, must be a finite number"),
        ("area", INFINITY, "got area inf, must be a finite number"),
        ("area", "12", "annotations[1].area: got '12', must be a finite number"),
        ("iscrowd", NAN, "annotations[1].iscrowd: got nan, must be 0 or 1"),
        ("iscrowd", 2, "annotations[1].iscrowd: got 2, must be 0 or 1"),
        ("iscrowd", "0", "annotations[1].iscrowd: got '0', must be 0 or 1"),
        ("ignore", NAN, "annotations[1].ignore: got nan, must be 0 or 1"),
        ("bbox", [NAN, 1, 2, 3], "got box [nan, 1.0, 2.0, 3.0], must have finite corners"),
        ("bbox", None, "annotations[1].bbox: got None, must be four finite numbers"),
        ("bbox", [1, 2, 3, 10**400], "annotations[1].bbox: got"),
        ("bbox", {"x": 1, "y": 2, "width": 3, "height": 4}, "annotations[1].bbox: got {'x': 1"),
        ("image_id", [1], "annotations[1].image_id: got [1], must be a number or text"),
        ("image_id", None, "got image_id None, must be the id of an image"),
        ("image_id", "a\x00\ud800", "must be the id of an image"),
        ("category_id", NAN, "got category_id nan, must be the id of a category"),
        ("category_id", "cat", "got category_id 'cat', must be the id of a category"),
    ],
)
def test_a_bad_value_is_refused_by_path_value_and_rule(
    field: str, value: object, said: str, tmp_path: Path
) -> None:
    message = refused(tmp_path, lambda content: content["annotations"][1].update({field: value}))
    assert said in message
    assert message.isprintable()


@pytest.mark.parametrize(
    ("section", "record", "said"),
    [
        ("images", 7, "images[0]: got 7, must be an object"),
        ("images", {"id": {}}, "images[0].id: got {}, must be a number or text"),
        ("images", {"id": NAN}, "images[0].id: got nan, must be a number or text"),
        ("images", {"id": 1}, "images[0].file_name: is absent, must be text"),
        ("images", image_record(1) | {"width": "64"}, "images[0].width: got '64', must be a whole number"),
        ("images", image_record(1) | {"width": 63.5}, "images[0].width: got 63.5, must be a whole number"),
        ("images", image_record(1) | {"width": 10**30}, "images[0].width: got 1000"),
        ("images", image_record(1, width=0), "image 1: got 0x48, must be >= 1x1"),
        ("images", image_record(1, width=10**6, height=10**6), "must have at most 268435456 pixels"),
        ("images", image_record(2), "image 2: the id is used more than once"),
        ("annotations", "x", "annotations[0]: got 'x', must be an object"),
        ("categories", [], "categories[0]: got [], must be an object"),
        ("categories", {"name": "cat"}, "categories[0].id: is absent"),
        ("categories", {"id": 1, "name": None}, "categories[0].name: got None, must be text"),
        ("categories", {"id": 1, "name": "\ud800"}, "categories[0].name: got '\\ud800', must be text"),
        ("categories", {"id": 1, "name": "dog"}, "got the name 'dog' of another category"),
    ],
)
def test_a_bad_record_is_refused_by_path_value_and_rule(
    section: str, record: object, said: str, tmp_path: Path
) -> None:
    message = refused(tmp_path, lambda content: content[section].__setitem__(0, record))
    assert said in message
    assert "\n" not in message
    message.encode()


@pytest.mark.parametrize("extra", [0, 30])
def test_boxes_in_shares_of_the_image_are_told(extra: int, tmp_path: Path) -> None:
    def change(content: Document) -> None:
        content["annotations"][2]["bbox"] = [0.25, 0.5, 0.5, 0.25]
        content["annotations"] += [annotation_record(10 + n, image=1) for n in range(extra)]

    message = refused(tmp_path, change)
    assert "annotation 2 of image 1: got box [0.25, 0.5, 0.5, 0.25], which looks like shares" in message
    assert "multiply x and width by the image's width" in message


def test_one_tiny_box_among_thousands_is_only_left_out(tmp_path: Path) -> None:
    def change(content: Document) -> None:
        content["annotations"][2]["bbox"] = [0.25, 0.5, 0.5, 0.25]
        content["annotations"] += [annotation_record(10 + n, image=1) for n in range(2000)]

    assert changed(tmp_path, change).left_out == {"objects less than a pixel wide or high": 1}


@pytest.mark.parametrize("field", ["width", "height", "both"])
def test_absent_sizes_are_read_from_the_files(field: str, tmp_path: Path) -> None:
    def change(record: Document) -> None:
        for name in ("width", "height"):
            if field in (name, "both"):
                del record[name]

    assert changed(tmp_path, of_each("images", change)).sizes.tolist() == [[48, 64]] * 2


def test_an_absent_size_of_an_absent_file_is_one_message_with_the_remedy(tmp_path: Path) -> None:
    content = document()
    del content["images"][0]["width"]
    file = write(tmp_path, content)
    (tmp_path / "images/1.jpg").unlink()
    found = problems_of(file, images=tmp_path / "images")
    assert "add both to the record" in found[0]
    assert all("must be the id of an image" in line for line in found[1:])


@pytest.mark.parametrize("name", ["cam\\1.jpg", "cam\\day one\\1.jpg"])
def test_backslashes_are_read_as_slashes_and_told(name: str, tmp_path: Path) -> None:
    make_image(tmp_path / "images" / name.replace("\\", "/").rpartition("/")[0], "1.jpg")
    found = changed(tmp_path, lambda content: content["images"][0].update(file_name=name))
    assert found.file_name(0) == name.replace("\\", "/")
    assert "1 file names have backslashes" in found.notes[0]
    arrays.require_images(found, tmp_path / "images")


def test_a_file_whose_name_has_a_backslash_is_found(tmp_path: Path) -> None:
    make_image(tmp_path / "images", "a\\b.jpg")
    found = changed(tmp_path, lambda content: content["images"][0].update(file_name="a\\b.jpg"))
    assert found.file_name(0) == "a\\b.jpg"
    assert found.notes == ()


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
