"""Annotations as shared arrays, by the zoo's rules."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

import golden_files
from dataset_builders import annotation_record, image_record, load_coco, make_image, write_annotations
from kubedet_trainer.data import arrays
from kubedet_trainer.errors import InvalidInput, MissingInput


def test_annotations_are_parsed_as_the_zoo_did(tmp_path: Path) -> None:
    golden = golden_files.read_unit("coco_parse")
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(golden["json"]))
    annotations = load_coco(file, cache=tmp_path / "cache")
    kept = annotations.training_rows()
    assert annotations.image_ids[kept].tolist() == golden["kept_image_ids"]
    assert annotations.aspect_groups()[kept].tolist() == golden["flags"]
    boxes, labels = annotations.ground_truth(0)
    assert boxes.tolist() == golden["image1"]["bboxes"]
    assert labels.tolist() == golden["image1"]["labels"]
    start, end = annotations.box_offsets[:2]
    assert (
        annotations.boxes[start:end][annotations.crowd[start:end]].tolist()
        == golden["image1"]["bboxes_ignore"]
    )


def test_photographs_of_coco_load_with_every_box_in_its_image(shared: Path, tmp_path: Path) -> None:
    file = shared / "data/coco_mini/instances_train.json"
    content = json.loads(file.read_text())
    annotations = load_coco(file, cache=tmp_path)
    assert [annotations.file_name(row) for row in range(len(annotations))] == [
        image["file_name"] for image in content["images"]
    ]
    assert len(annotations.classes) == 80
    category_of = {category["id"]: category["name"] for category in content["categories"]}
    for row, image in enumerate(content["images"]):
        own = [a for a in content["annotations"] if a["image_id"] == image["id"] and not a["iscrowd"]]
        boxes, labels = annotations.ground_truth(row)
        assert [annotations.classes[label - 1] for label in labels] == [
            category_of[a["category_id"]] for a in own
        ]
        np.testing.assert_allclose(boxes[:, 2:] - boxes[:, :2] + 1, [a["bbox"][2:] for a in own], rtol=1e-5)


def test_ground_truth_slots_are_the_fullest_image_rounded_up_to_eight(tmp_path: Path) -> None:
    counts = [3, 9, 1]
    images = [image_record(number) for number in range(1, 4)]
    annotations = [
        annotation_record(10 * number + extra, image=number, iscrowd=int(number == 3))
        for number, count in enumerate(counts, start=1)
        for extra in range(count)
    ]
    file = write_annotations(tmp_path / "x.json", images=images, annotations=annotations)
    loaded = load_coco(file, cache=tmp_path / "cache")
    assert loaded.ground_truth_counts().tolist() == [3, 9, 0]
    assert loaded.ground_truth_slots(np.array([0, 1, 2])) == 16
    assert loaded.ground_truth_slots(np.array([0, 2])) == 8


def test_a_second_load_maps_the_first_ones_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_annotations(
        tmp_path / "x.json", images=[image_record(1)], annotations=[annotation_record(1, image=1)]
    )
    first = load_coco(file, cache=tmp_path / "cache")
    monkeypatch.setattr(arrays, "read_split", lambda *_: pytest.fail("read twice"))
    second = load_coco(file, cache=tmp_path / "cache")
    assert isinstance(second.boxes, np.memmap)
    assert not second.boxes.flags.writeable
    assert second.boxes.tolist() == first.boxes.tolist()
    assert second.classes == ("cat", "dog")


def test_a_changed_file_is_parsed_anew(tmp_path: Path) -> None:
    def load(bbox: tuple[float, ...]) -> list[list[float]]:
        record = annotation_record(1, image=1, bbox=bbox)
        file = write_annotations(tmp_path / "x.json", images=[image_record(1)], annotations=[record])
        os.utime(file, ns=(0, int(bbox[0])))
        boxes: list[list[float]] = load_coco(file, cache=tmp_path / "cache").boxes.tolist()
        return boxes

    assert load((1, 2, 3, 4)) == [[1, 2, 3, 5]]
    assert load((2, 2, 3, 4)) == [[2, 2, 4, 5]]


def test_a_process_that_receives_annotations_maps_the_same_files(tmp_path: Path) -> None:
    records = [annotation_record(number, image=1) for number in range(1, 500)]
    file = write_annotations(tmp_path / "x.json", images=[image_record(1)], annotations=records)
    annotations = load_coco(file, cache=tmp_path / "cache")
    message = pickle.dumps(annotations)
    assert len(message) < 1000
    assert isinstance(pickle.loads(message).boxes, np.memmap)


def test_images_without_any_annotation_load(tmp_path: Path) -> None:
    file = write_annotations(tmp_path / "x.json", images=[image_record(1), image_record(2)], annotations=[])
    annotations = load_coco(file, cache=tmp_path / "cache")
    assert annotations.ground_truth(1)[0].shape == (0, 4)
    assert len(annotations.training_rows()) == 0


def test_a_file_without_images_loads(tmp_path: Path) -> None:
    file = write_annotations(tmp_path / "x.json", images=[], annotations=[])
    annotations = load_coco(file, cache=tmp_path / "cache")
    assert len(annotations) == len(annotations.training_rows()) == 0


def test_an_absent_annotation_file_is_missing_input(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"nowhere\.json: no such annotation file"):
        load_coco(tmp_path / "nowhere.json", cache=tmp_path)


def test_bad_annotations_are_refused_with_file_id_and_rule(tmp_path: Path) -> None:
    records = [annotation_record(number, image=1, category_id=7) for number in range(10, 20)]
    file = write_annotations(tmp_path / "x.json", images=[image_record(1)], annotations=records)
    with pytest.raises(InvalidInput) as refused:
        load_coco(file, cache=tmp_path / "cache")
    message = str(refused.value)
    assert "x.json: annotation 10 of image 1: got category_id 7, must be the id of a category" in message
    assert "kubedet check-data" in message
    assert "\n" not in message
    assert not list((tmp_path / "cache").glob("*.npy"))


def test_absent_images_are_named_before_training(tmp_path: Path) -> None:
    images = [image_record(number) for number in range(1, 4)]
    file = write_annotations(tmp_path / "x.json", images=images, annotations=[])
    make_image(tmp_path / "images", "2.jpg")
    annotations = load_coco(file, cache=tmp_path / "cache")
    with pytest.raises(MissingInput, match=r"1\.jpg: image 1 is absent, as are 1 more"):
        arrays.require_images(annotations, tmp_path / "images")
    for name in ("1.jpg", "3.jpg"):
        make_image(tmp_path / "images", name)
    arrays.require_images(annotations, tmp_path / "images")


def test_images_in_subfolders_are_found(tmp_path: Path) -> None:
    record = {**image_record(1), "file_name": "day/one/1.jpg"}
    file = write_annotations(tmp_path / "x.json", images=[record], annotations=[])
    make_image(tmp_path / "images/day/one", "1.jpg")
    arrays.require_images(load_coco(file, cache=tmp_path / "cache"), tmp_path / "images")
