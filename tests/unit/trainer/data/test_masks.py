"""Masks of the ground truth: from the annotation file to the bits of a batch."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

import trainer_builders
from dataset_builders import (
    ALONE,
    DATA,
    annotation_record,
    image_record,
    load_coco,
    make_image,
    problems_of,
    write_annotations,
)
from kubedet_trainer.data import loader, run_lengths, splits
from kubedet_trainer.data.arrays import Annotations
from kubedet_trainer.data.masks import ImageMasks, place_masks
from kubedet_trainer.data.transforms import Pipeline
from kubedet_trainer.errors import InvalidInput

SQUARE = [[4, 5, 24, 5, 24, 15, 4, 15]]


def load(root: Path, *segmentations: Any, **more: Any) -> Annotations:
    """Annotations 1, 2, ... of one image with these segmentations, None for none."""
    records = [
        annotation_record(number, image=1, **({} if outline is None else {"segmentation": outline}), **more)
        for number, outline in enumerate(segmentations, start=1)
    ]
    file = write_annotations(root / "x.json", images=[image_record(1)], annotations=records)
    return load_coco(file, cache=root / "cache", masks=True)


def test_masks_of_photographs_are_pycocotools_own(shared: Path, tmp_path: Path) -> None:
    file = shared / "data/coco_mini/instances_val.json"
    annotations = pickle.loads(pickle.dumps(load_coco(file, cache=tmp_path, masks=True)))
    truth = COCO(str(file))
    compared = 0
    for row, image_id in enumerate(annotations.image_ids.tolist()):
        own = truth.loadAnns(truth.getAnnIds(image_id, iscrowd=False))
        codes = annotations.masks(row)
        assert len(codes) == len(own) == len(annotations.ground_truth(row)[0])
        for code, record in zip(codes, own, strict=True):
            size = tuple(annotations.sizes[row].tolist())
            np.testing.assert_array_equal(run_lengths.decode(code, size=size), truth.annToMask(record))
            compared += 1
    assert compared > 100


def test_masks_follow_the_boxes_where_annotations_are_left_out_or_out_of_order(tmp_path: Path) -> None:
    def outline(left: int) -> list[list[int]]:
        return [[left, 0, left + 4, 0, left + 4, 4, left, 4]]

    def record(number: int, image: int, **more: Any) -> dict[str, Any]:
        box = (number, 0, 4, 4)
        return annotation_record(number, image=image, bbox=box, segmentation=outline(number), **more)

    records = [record(5, 2), record(9, 1, iscrowd=1), record(3, 1, ignore=1), record(7, 1), record(2, 2)]
    del records[2]["segmentation"]  # needs none: it is left out
    file = write_annotations(
        tmp_path / "x.json", images=[image_record(1), image_record(2)], annotations=records
    )
    annotations = load_coco(file, cache=tmp_path / "cache", masks=True)
    for row, lefts in enumerate([[7], [5, 2]]):
        bitmaps = [run_lengths.decode(code, size=(48, 64)) for code in annotations.masks(row)]
        assert [int(bitmap.any(axis=0).argmax()) for bitmap in bitmaps] == lefts
        assert annotations.ground_truth(row)[0][:, 0].tolist() == lefts


def test_masks_are_read_only_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    annotations = load(tmp_path, SQUARE)
    assert annotations.has_masks
    monkeypatch.setattr(run_lengths, "compress", lambda *_, **__: pytest.fail("read"))
    plain = load_coco(tmp_path / "x.json", cache=tmp_path / "cache")
    assert not plain.has_masks
    again = load_coco(tmp_path / "x.json", cache=tmp_path / "cache", masks=True)
    assert again.masks(0) == annotations.masks(0)


@pytest.mark.parametrize(
    ("outline", "said"),
    [
        (None, "is absent, must be there .* [missing-segmentation]"),
        ([[4, 5, 24, 5]], "must have a polygon of at least 6 numbers"),
        ([[4, 5, 24, 5, 24]], "must be a list of numbers x, y"),
        ([[4, 5, 24, 5, 24, "15"]], "must be a list of numbers x, y"),
        ([4, 5, 24, 5, 24, 15], "must be a list of numbers x, y"),
        ([[4, 5, 24, 5, 1e9, 15]], "must lie within the 64x48 pixels"),
        ([[4, 5, 24, 5, float("nan"), 15]], "must lie within the 64x48 pixels"),
        ("a square", "must be polygons or run lengths"),
        ({"size": [64, 48], "counts": [64 * 48]}, "must be [48, 64]"),
        ({"size": [48, 64], "counts": [5, 5]}, "run lengths that make 64x48 pixels"),
        ({"size": [48, 64], "counts": [5, -5, 64 * 48]}, "run lengths that make 64x48 pixels"),
        ({"size": [48, 64], "counts": "PP"}, "run lengths that make 64x48 pixels"),
        ({"size": [48, 64], "counts": "pppppppp0"}, "run lengths that make 64x48 pixels"),
        ({"size": [48, 64], "counts": [0.5]}, "whole numbers or a compressed string"),
    ],
)
def test_a_bad_segmentation_is_refused_with_file_id_and_rule(outline: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as refused:
        load(tmp_path, SQUARE, outline)
    message = str(refused.value)
    assert "x.json: annotation 2 of image 1: segmentation: " in message
    assert all(part in message for part in said.split(" .* "))
    make_image(tmp_path / "images", "1.jpg")
    found = problems_of(tmp_path / "x.json", images=tmp_path / "images")
    assert len(found) == (outline is not None)
    assert all("annotation 2" in line and "[malformed-segmentation]" in line for line in found)


@pytest.mark.parametrize("size", [(96, 131), (20, 17), (48, 64)])
@pytest.mark.parametrize("flip", [False, True])
def test_masks_are_resized_by_nearest_neighbours(size: tuple[int, int], flip: bool) -> None:
    bitmap = (np.random.default_rng(0).random((48, 64)) < 0.4).astype(np.uint8)
    runs = np.flatnonzero(np.diff(bitmap.T.ravel(), prepend=0, append=2))
    code = {"size": [48, 64], "counts": np.diff(runs, prepend=0).tolist()}
    codes = [run_lengths.compress(code, size=(48, 64))] * 2
    image = ImageMasks(codes=codes, original_size=(48, 64), size=size, flip=flip)
    padded = (size[0] + 5, size[1] + 9)
    found = trainer_builders.draw_masks(place_masks([image], slots=3, size=padded))
    assert found.shape == (1, 3, *padded)
    expected = cv2.resize(bitmap, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)
    for drawn in found[0, :2, : size[0], : size[1]]:
        np.testing.assert_array_equal(drawn, expected[:, ::-1] if flip else expected)
    assert found.sum() == 2 * expected.sum(), "nothing beyond the image and in the empty slot"


@pytest.mark.parametrize("rows", [slice(0, 0), slice(0, 48), slice(47, 48), slice(0, 1)])
def test_masks_that_touch_the_borders_do_not_touch_each_other(rows: slice) -> None:
    bitmaps = np.zeros((2, 2, 48, 64), np.uint8)
    bitmaps[0, 0, rows] = bitmaps[1, 1, rows, -1] = bitmaps[0, 1, -1, rows.start : rows.stop] = 1
    found = trainer_builders.draw_masks(trainer_builders.make_masks(bitmaps))
    np.testing.assert_array_equal(found, bitmaps)


def test_a_training_batch_holds_the_masks_of_its_boxes(tmp_path: Path) -> None:
    images, records = [], []
    for number, (width, height) in enumerate([(64, 48), (80, 48)], start=1):
        make_image(tmp_path / "images", f"{number}.jpg", width=width, height=height)
        images.append(image_record(number, width=width, height=height))
        for left in (3, 20)[:number]:
            outline = [[left, 5, left + 30, 5, left + 30, 35, left, 35]]
            box = (left, 5, 30, 30)
            records.append(
                annotation_record(10 * number + left, image=number, bbox=box, segmentation=outline)
            )
    file = write_annotations(tmp_path / "x.json", images=images, annotations=records)
    annotations = load_coco(file, cache=tmp_path / "cache", masks=True)
    split = splits.training_split(annotations, folder=tmp_path / "images", data=DATA)
    batches = loader.train_loader(
        split,
        plan=loader.sampling_plan(split, images_per_process=2, global_batch=2, seed=0),
        pipeline=Pipeline(scale=(160, 96), flip_probability=0.5),
        world=ALONE,
        end_iteration=4,
        num_workers=0,
    )
    for batch in batches:
        targets = batch.targets
        assert targets.masks is not None
        bits = trainer_builders.draw_masks(targets.masks)
        assert bits.shape == (2, 8, 96, 160)
        assert not bits[~targets.valid.numpy()].any()
        for place, slot in targets.valid.nonzero().tolist():
            rows, columns = np.nonzero(bits[place, slot])
            found = [columns.min(), rows.min(), columns.max(), rows.max()]
            np.testing.assert_allclose(found, targets.boxes[place, slot].numpy(), atol=2)


def test_validation_batches_carry_no_masks(tmp_path: Path) -> None:
    make_image(tmp_path / "images", "1.jpg")
    split = splits.validation_split(load(tmp_path, SQUARE), folder=tmp_path / "images")
    (batch,) = loader.val_loader(split, pipeline=Pipeline(), world=ALONE, num_workers=0)
    assert batch.targets.masks is None
