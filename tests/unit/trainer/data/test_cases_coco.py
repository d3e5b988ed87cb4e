"""Kinds of deviations in COCO files that users have reported: each is read, or refused by name."""

from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coco_documents import POLYGON, Document, changed, document, of_each, refused, rename_ids, write
from dataset_builders import (
    annotation_record,
    image_record,
    load_coco,
    load_truth,
    make_image,
    problems_of,
)
from kubedet_trainer.data import arrays
from kubedet_trainer.errors import InvalidInput

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
    assert found.left_out == {"objects whose area is given as 0 or less": 1}


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
    (problem,) = problems_of(file, images=tmp_path / "images")
    assert "add both to the record" in problem


@pytest.mark.parametrize(
    ("section", "record"),
    [
        ("images", image_record(1) | {"width": "64"}),
        ("images", image_record(1, width=0)),
        ("images", image_record(1) | {"file_name": None}),
        ("categories", None),
    ],
)
def test_a_bad_image_or_no_category_is_one_message(
    section: str, record: Document | None, tmp_path: Path
) -> None:
    content = document()
    content[section][:] = [record, *content[section][1:]] if record else []
    assert len(problems_of(write(tmp_path, content), images=tmp_path / "images")) == 1


@pytest.mark.parametrize(
    ("written", "there", "said"),
    [
        ("a.jpg", "A.JPG", "; the folder has 'A.JPG'"),
        ("a.jpg", "a.png", "; the folder has 'a.png'"),
        ("é.jpg", "e\u0301.jpg", "; the folder has 'e\\u0301.jpg', whose letters are composed otherwise"),
        ("a.jpg", "b.jpg", "must be a file [missing-image]"),
    ],
)
def test_an_absent_image_is_told_with_the_one_that_was_perhaps_meant(
    written: str, there: str, said: str, tmp_path: Path
) -> None:
    make_image(tmp_path / "images", there)
    content = document()
    content["images"][0]["file_name"] = written
    (problem,) = problems_of(write(tmp_path, content), images=tmp_path / "images")
    assert f"images/{written}: image 1: no such image, must be a file" in problem
    assert said in problem


def test_a_link_to_nothing_is_told_as_such(tmp_path: Path) -> None:
    file = write(tmp_path, document())
    (tmp_path / "images/1.jpg").unlink()
    (tmp_path / "images/1.jpg").symlink_to("gone.jpg")
    (problem,) = problems_of(file, images=tmp_path / "images")
    assert "no such image, must be a file; it is a link to what is not there" in problem


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
