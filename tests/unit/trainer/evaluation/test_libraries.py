"""hotcoco makes the tables of pycocotools, to the last bit; where it does not, pycocotools counts."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dataset_builders import load_truth
from kubedet_trainer.data import run_lengths
from kubedet_trainer.data.arrays import Truth
from kubedet_trainer.evaluation.coco import CocoScorer
from kubedet_trainer.evaluation.detections import DetectionTable
from kubedet_trainer.evaluation.libraries import Answer, Hotcoco, Pycocotools, Question

_SIZE = (240, 320)
_LIMITS = (1, 10, 100)
BOXES = Question(iou_type="bbox", max_detections=_LIMITS)
MASKS = Question(iou_type="segm", max_detections=_LIMITS)
FEW = Question(iou_type="bbox", max_detections=(1, 2, 5))
PROPOSALS = Question(iou_type="bbox", use_categories=False, max_detections=(100, 300, 1000))


def assert_equal(truth: Truth, found: DetectionTable, *questions: Question) -> None:
    """Every entry of every table, and every match."""
    ours, theirs = (library(truth).compare(found, questions) for library in (Hotcoco, Pycocotools))
    for own, judged in zip(ours.tables, theirs.tables, strict=True):
        for name in ("precision", "recall", "overlaps"):
            np.testing.assert_array_equal(getattr(own, name), getattr(judged, name), err_msg=name)
    np.testing.assert_array_equal(ours.matching.found, theirs.matching.found)
    np.testing.assert_array_equal(ours.matching.is_counted, theirs.matching.is_counted)


def _boxes(random: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Boxes (x, y, width, height) of all of COCO's sizes, some at whole pixels and at the bounds of sizes."""
    sides = random.choice([4, 16, 32, 48, 96, 120], (count, 2)) + random.choice([0, 0.5, 3.25], (count, 1))
    corners = random.uniform(0, 100, (count, 2)).round(random.integers(0, 3))
    return np.concatenate([corners, sides], axis=1)


def _codes(boxes: NDArray[np.float64], random: np.random.Generator) -> list[bytes]:
    """Masks that cover a part of each box."""
    shares = random.choice([0.5, 0.8, 1.0], len(boxes))
    sides = boxes[:, 2:] * shares[:, None]
    return [run_lengths.of_box(box, size=_SIZE) for box in np.hstack([boxes[:, :2], sides]).tolist()]


def make_truth(random: np.random.Generator, *, images: int = 12, classes: int = 6) -> Truth:
    """Objects of all classes but the last, crowds and ignored ones among them; ids in no order."""
    rows = np.sort(random.integers(0, images - 1, 5 * images))  # the last image is empty
    boxes = _boxes(random, len(rows))
    codes = _codes(boxes, random)
    ends = np.cumsum([len(code) for code in codes])
    return Truth(
        image_ids=random.permutation(np.arange(-3, images - 3)) * 1000,
        sizes=np.full((images, 2), _SIZE, np.int32),
        category_ids=random.permutation(np.arange(classes)) * 7,
        rows=rows,
        labels=random.integers(1, classes, len(rows)),
        boxes=boxes,
        areas=np.where(random.random(len(rows)) < 0.1, 0.0, boxes[:, 2:].prod(axis=1) * 0.75),
        crowd=random.random(len(rows)) < 0.15,
        ignored=random.random(len(rows)) < 0.1,
        mask_spans=np.stack([ends - [len(code) for code in codes], ends], axis=1),
        mask_bytes=np.frombuffer(b"".join(codes), np.uint8),
    )


def make_found(truth: Truth, random: np.random.Generator, *, wrong: int = 150) -> DetectionTable:
    """Objects found two or three times and `wrong` more, of all classes but the first; many scores are equal.

    Nothing is found in the first image.
    """
    hits = np.repeat(np.arange(len(truth.rows)), random.integers(0, 4, len(truth.rows)))
    rows = np.concatenate([truth.rows[hits], random.integers(0, len(truth.image_ids), wrong)])
    boxes = np.concatenate([truth.boxes[hits] + random.normal(0, 2, (len(hits), 4)), _boxes(random, wrong)])
    boxes[:, 2:] = boxes[:, 2:].clip(1)
    labels = np.concatenate([truth.labels[hits], random.integers(2, len(truth.category_ids) + 1, wrong)])
    kept = np.flatnonzero((rows > 0) & (labels > 1))
    rows, boxes, labels = rows[kept], boxes[kept], labels[kept]
    corners = boxes.copy()
    corners[:, 2:] += corners[:, :2] - 1
    codes = _codes(boxes, random)
    return DetectionTable(
        image_ids=truth.image_ids[rows],
        labels=labels,
        boxes=corners.astype(np.float32),
        scores=random.random(len(rows)).round(1).astype(np.float32),
        masks=np.array(codes, np.object_),
        mask_sizes=np.full((len(rows), 2), _SIZE),
    )


@pytest.mark.parametrize("seed", range(3))
def test_made_up_detections_are_worth_the_same_to_the_last_bit(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth = make_truth(random)
    found = make_found(truth, random)
    assert len(np.unique(found.scores)) < 12 < len(found)
    assert_equal(truth, found, BOXES, MASKS)
    assert_equal(truth, found, FEW)
    assert_equal(truth, found, PROPOSALS)


def test_masks_are_sorted_by_the_area_of_the_detected_box() -> None:
    random = np.random.default_rng(5)
    truth = make_truth(random)
    found = make_found(truth, random)
    found.boxes[:, 2:] = found.boxes[:, :2] + random.choice([10, 50, 200], (len(found), 1))
    assert_equal(truth, found, MASKS)


@pytest.mark.parametrize("questions", [(BOXES, MASKS), (PROPOSALS,)])
def test_without_detections_or_objects_both_say_the_same(questions: tuple[Question, ...]) -> None:
    random = np.random.default_rng(7)
    truth = make_truth(random)
    found = make_found(truth, random)
    nothing = replace(truth, crowd=np.ones(len(truth.rows), np.bool_))
    assert_equal(truth, DetectionTable.joined([]), *questions)
    assert_equal(nothing, found, *questions)


def test_a_score_that_is_not_a_number_comes_last_in_both() -> None:
    random = np.random.default_rng(8)
    truth = make_truth(random)
    found = make_found(truth, random)
    found.scores[::3] = np.nan
    assert_equal(truth, found, BOXES)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_published_detections_are_worth_the_same_to_the_last_bit(
    kind: str, shared: Path, tmp_path: Path
) -> None:
    folder = shared / "data/cocoeval"
    truth = load_truth(folder / "instances_val2014_100.json", cache=tmp_path, masks=kind == "segm")
    records = json.loads((folder / f"instances_val2014_fake{kind}100_results.json").read_text())
    question = {"bbox": BOXES, "segm": MASKS}[kind]
    assert_equal(truth, _published(truth, records), question)
    assert_equal(truth, _published(truth, records), PROPOSALS)


def _published(truth: Truth, records: list[dict[str, Any]]) -> DetectionTable:
    labels = {number: label for label, number in enumerate(truth.category_ids.tolist(), start=1)}
    codes: list[Any] = [record.get("segmentation") for record in records]
    boxes = np.array([record.get("bbox", [5, 5, 40, 40]) for record in records])
    boxes[:, 2:] += boxes[:, :2] - 1
    has_masks = truth.mask_spans is not None
    return DetectionTable(
        image_ids=np.array([record["image_id"] for record in records]),
        labels=np.array([labels[record["category_id"]] for record in records]),
        boxes=boxes,
        scores=np.array([record["score"] for record in records]),
        masks=np.array([code["counts"].encode() for code in codes], np.object_) if has_masks else None,
        mask_sizes=np.array([code["size"] for code in codes]) if has_masks else None,
    )


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), images=st.integers(2, 4), classes=st.integers(2, 3))
def test_however_few_they_are_the_same_is_matched(seed: int, images: int, classes: int) -> None:
    random = np.random.default_rng(seed)
    truth = make_truth(random, images=images, classes=classes)
    assert_equal(truth, make_found(truth, random, wrong=int(random.integers(0, 9))), BOXES, MASKS)


class _Other(Hotcoco):
    """Finds less than there is."""

    def compare(self, detections: DetectionTable, questions: Sequence[Question]) -> Answer:
        return super().compare(detections.above(0.5), questions)


class _Broken(Hotcoco):
    def compare(self, detections: DetectionTable, questions: Sequence[Question]) -> Answer:
        raise ValueError("out of order")


@pytest.mark.parametrize(
    ("library", "warning"),
    [
        (Hotcoco, ""),
        (_Other, "hotcoco has other figures than pycocotools, by which the row goes: boxAP"),
        (_Broken, "hotcoco failed: ValueError('out of order')"),
    ],
)
def test_where_hotcoco_differs_the_row_is_pycocotools_and_says_so(
    library: type[Hotcoco], warning: str, caplog: pytest.LogCaptureFixture
) -> None:
    random = np.random.default_rng(9)
    truth = make_truth(random)
    found = make_found(truth, random)
    wanted = CocoScorer(truth, kind="bbox", library=Pycocotools(truth)).score(found).figures
    judged = CocoScorer(truth, kind="bbox", library=library(truth), judge=Pycocotools(truth))
    with caplog.at_level(logging.WARNING):
        assert judged.score(found).figures == wanted
    assert [warning in record.getMessage() for record in caplog.records] == [True] * bool(warning)
