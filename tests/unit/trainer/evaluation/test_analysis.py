"""What stands behind the figures: classes, thresholds, kinds of errors, confusions, images."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dataset_builders import load_truth
from kubedet_trainer.data.arrays import Truth
from kubedet_trainer.evaluation import analysis, errors
from kubedet_trainer.evaluation.analysis import Analysis
from kubedet_trainer.evaluation.coco import build_scorer
from kubedet_trainer.evaluation.detections import DetectionTable
from kubedet_trainer.evaluation.errors import ErrorKind
from kubedet_trainer.evaluation.scores import Scores
from kubedet_trainer.evaluation.voc import VocScorer

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2"""
Object = tuple[int, int, Box]
"""Image, label, box."""
Found = tuple[int, int, Box, float]
"""Image, label, box, score."""

CLASSES = ["cat", "dog", "owl"]
HERE, NEAR, THERE = (10, 10, 29, 29), (18, 10, 37, 29), (60, 60, 79, 79)
"""`NEAR` overlaps `HERE` by 0.43, `THERE` neither."""


def make_truth(objects: list[Object], *, images: int = 3, crowds: tuple[int, ...] = ()) -> Truth:
    corners = np.array([box for _, _, box in objects], np.float64).reshape(-1, 4)
    boxes = corners.copy()
    boxes[:, 2:] += 1 - boxes[:, :2]
    return Truth(
        image_ids=np.arange(1, images + 1),
        sizes=np.full((images, 2), 100, np.int32),
        category_ids=np.array([30, 10, 20]),
        rows=np.array([image - 1 for image, _, _ in objects], np.int64),
        labels=np.array([label for _, label, _ in objects], np.int64),
        boxes=boxes,
        areas=boxes[:, 2] * boxes[:, 3],
        crowd=np.array([row in crowds for row in range(len(objects))], np.bool_),
        ignored=np.zeros(len(objects), np.bool_),
    )


def make_table(found: list[Found]) -> DetectionTable:
    return DetectionTable(
        image_ids=np.array([image for image, *_ in found], np.int64),
        labels=np.array([label for _, label, _, _ in found], np.int64),
        boxes=np.array([box for _, _, box, _ in found], np.float32).reshape(-1, 4),
        scores=np.array([score for *_, score in found], np.float32),
    )


def analyse(found: list[Found], truth: Truth, *, kind: Any = "bbox") -> Analysis:
    table = make_table(found)
    scores = build_scorer(kind, truth=truth).score(table)
    return analysis.analyse(table, truth=truth, scores=scores, classes=CLASSES)[0]


@pytest.fixture(scope="module")
def published(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[DetectionTable, Truth, Scores]:
    """The published results of pycocotools, and what the scorer says of them."""
    folder = shared / "data/cocoeval"
    truth = load_truth(folder / "instances_val2014_100.json", cache=tmp_path_factory.mktemp("cache"))
    records = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    labels = {number: label for label, number in enumerate(truth.category_ids.tolist(), start=1)}
    boxes = np.array([record["bbox"] for record in records])
    boxes[:, 2:] += boxes[:, :2] - 1
    table = DetectionTable(
        image_ids=np.array([record["image_id"] for record in records]),
        labels=np.array([labels[record["category_id"]] for record in records]),
        boxes=boxes,
        scores=np.array([record["score"] for record in records]),
    )
    return table, truth, build_scorer("bbox", truth=truth).score(table)


def test_the_precision_of_each_class_is_pycocotools_own_to_the_last_bit(
    shared: Path, published: tuple[DetectionTable, Truth, Scores]
) -> None:
    _, truth, scores = published
    folder = shared / "data/cocoeval"
    names = ("boxAP", "boxAP50", "boxAP75", "boxAPs", "boxAPm", "boxAPl")
    with contextlib.redirect_stdout(io.StringIO()):
        annotations = COCO(str(folder / "instances_val2014_100.json"))
        found = annotations.loadRes(str(folder / "instances_val2014_fakebbox100_results.json"))
        for category, own in zip(truth.category_ids.tolist(), scores.classes, strict=True):
            scoring = COCOeval(annotations, found, "bbox")
            scoring.params.catIds = [category]
            scoring.evaluate()
            scoring.accumulate()
            scoring.summarize()
            wanted = {name: 100 * float(value) for name, value in zip(names, scoring.stats[:6], strict=True)}
            assert own.figures == {name: value for name, value in wanted.items() if value >= 0}
    assert sum(bool(own.figures) for own in scores.classes) > 50


def test_published_results_are_explained_without_a_rest(
    published: tuple[DetectionTable, Truth, Scores],
) -> None:
    table, truth, scores = published
    for threshold in (0.0, 0.3, 0.9):
        explained = errors.explain(table, truth=truth, matching=scores.matching, threshold=threshold)
        chosen = np.flatnonzero((table.scores >= threshold) & scores.matching.is_counted)
        assert sorted([*explained.right, *explained.wrong()]) == chosen.tolist()
        counts = np.flatnonzero(~(truth.crowd | truth.ignored))
        found = scores.matching.found[explained.right]
        assert sorted([*found, *explained.blamed, *explained.missed]) == counts.tolist()
        assert sum(item.count for item in explained.confusions if item.detected) == len(chosen)
        assert sum(item.count for item in explained.confusions if item.truth) == len(counts)


def test_the_average_of_a_curve_is_the_precision_of_its_class(
    published: tuple[DetectionTable, Truth, Scores],
) -> None:
    table, truth, scores = published
    classes = [str(number) for number in truth.category_ids]
    found, _ = analysis.analyse(table, truth=truth, scores=scores, classes=classes)
    known = [item for item in found.classes if item.curve]
    assert len(known) > 50
    for item in known:
        assert 100 * np.mean(item.curve) == pytest.approx(item.figures["boxAP50"], abs=0.01)
    assert 100 * np.mean(found.curves["0.50"]) == pytest.approx(scores.figures["boxAP50"], abs=0.01)
    assert 100 * np.mean(found.curves["0.50:0.95"]) == pytest.approx(scores.figures["boxAP"], abs=0.01)


@pytest.mark.parametrize("kind", ["bbox", "voc"])
@pytest.mark.parametrize(
    ("label", "box", "wanted"),
    [
        (2, HERE, ErrorKind.CLASSIFICATION),
        (1, NEAR, ErrorKind.LOCALISATION),
        (2, NEAR, ErrorKind.BOTH),
        (1, HERE, ErrorKind.DUPLICATE),
        (1, THERE, ErrorKind.BACKGROUND),
    ],
)
def test_each_wrong_detection_has_one_kind(kind: Any, label: int, box: Box, wanted: ErrorKind) -> None:
    truth = make_truth([(1, 1, HERE)])
    found = analyse([(1, 1, HERE, 0.9), (1, label, box, 0.9), (2, 1, HERE, 0.1)], truth, kind=kind)
    assert found.errors is not None
    assert found.errors.wrong == {str(each): int(each is wanted) for each in ErrorKind}
    assert (found.errors.right, found.errors.missed, found.errors.blamed) == (1, 0, 0)


def test_a_missed_object_is_blamed_on_a_detection_of_the_wrong_class_or_place_if_there_is_one() -> None:
    truth = make_truth([(1, 1, HERE), (2, 1, HERE), (3, 1, HERE), (3, 1, THERE)])
    found = analyse([(1, 2, HERE, 0.9), (2, 1, NEAR, 0.9), (3, 1, HERE, 0.9)], truth)
    assert found.errors is not None
    assert (found.errors.right, found.errors.blamed, found.errors.missed) == (1, 2, 1)


def test_a_confused_object_leaves_the_row_of_its_class_for_the_column_of_the_detected_one() -> None:
    truth = make_truth([(1, 1, HERE), (2, 3, HERE), (3, 1, HERE)])
    found = analyse([(1, 2, HERE, 0.9), (1, 2, NEAR, 0.9), (3, 1, HERE, 0.9)], truth)
    assert {(item.truth, item.detected): item.count for item in found.confusions} == {
        ("cat", "dog"): 1,
        ("cat", "cat"): 1,
        ("owl", None): 1,
        (None, "dog"): 1,
    }


def test_the_best_threshold_lets_the_most_through_that_pays() -> None:
    truth = make_truth([(1, 1, HERE), (2, 1, HERE), (3, 2, HERE)])
    found = analyse(
        [(1, 1, HERE, 0.9), (2, 1, THERE, 0.8), (2, 1, HERE, 0.7), (3, 2, HERE, 0.3), (3, 2, THERE, 0.2)],
        truth,
    )
    assert found.best is not None
    assert found.best.threshold == pytest.approx(0.3)
    assert found.best.precision == pytest.approx(75)
    assert found.best.recall == pytest.approx(100)
    cat, dog, owl = found.classes
    assert cat.best is not None
    assert dog.best is not None
    assert [cat.best.threshold, dog.best.threshold] == pytest.approx([0.7, 0.3])
    assert dog.best.f1 == pytest.approx(100)
    assert (owl.best, owl.objects, owl.figures, owl.curve) == (None, 0, {}, [])


def test_detections_of_one_score_pass_a_threshold_together() -> None:
    scores, is_right = np.array([0.5, 0.5, 0.5], np.float32), np.array([True, False, False])
    point = analysis.best_point(scores, is_right, objects=1)
    assert point is not None
    assert point.precision == pytest.approx(100 / 3)
    assert analysis.best_point(scores, ~is_right & False, objects=1) is None


def test_crowds_count_neither_way() -> None:
    truth = make_truth([(1, 1, HERE), (2, 1, (0, 0, 99, 99))], crowds=(1,))
    found = analyse([(1, 1, HERE, 0.9), (2, 1, HERE, 0.9), (2, 1, THERE, 0.9)], truth)
    assert found.errors is not None
    assert (found.errors.detections, found.errors.objects, found.objects) == (1, 1, 1)


def test_images_are_ranked_by_their_errors() -> None:
    truth = make_truth([(1, 1, HERE), (2, 1, HERE), (2, 2, THERE)])
    found = analyse([(1, 1, HERE, 0.9), (2, 1, HERE, 0.9), (3, 1, HERE, 0.9)], truth)
    assert [image.image for image in found.bestImages] == [1, 2]
    assert [image.image for image in found.worstImages] == [3, 2]
    assert (found.worstImages[1].right, found.worstImages[1].missed) == (1, 1)


def test_nothing_found_is_analysed_too() -> None:
    found = analyse([], make_truth([(1, 1, HERE)]))
    assert found.errors is not None
    assert (found.best, found.errors.missed, found.errors.detections) == (None, 1, 0)
    assert (found.bestImages, [image.image for image in found.worstImages]) == ([], [1])


def test_proposals_have_their_recall_by_overlap_and_of_each_class() -> None:
    truth = make_truth([(1, 1, HERE), (2, 2, HERE), (2, 2, THERE)])
    found = analyse([(1, 1, HERE, 0.9), (2, 1, (10, 10, 29, 25), 0.8)], truth, kind="proposal")
    assert found.recalls["0.50"] == pytest.approx(200 / 3)
    assert found.recalls["0.95"] == pytest.approx(100 / 3)
    assert [(item.name, item.objects, item.found) for item in found.classes] == [
        ("cat", 1, 1),
        ("dog", 2, 1),
        ("owl", 0, 0),
    ]
    assert (found.errors, found.best, found.curves, found.confusions) == (None, None, {}, [])
    assert [image.image for image in found.worstImages] == [2]


CORNERS = st.tuples(*[st.integers(0, 40)] * 2).flatmap(
    lambda corner: st.tuples(
        st.just(corner[0]),
        st.just(corner[1]),
        st.integers(corner[0] + 3, corner[0] + 30),
        st.integers(corner[1] + 3, corner[1] + 30),
    )
)
IMAGES, LABELS = st.integers(1, 3), st.integers(1, 3)


@given(
    objects=st.lists(st.tuples(IMAGES, LABELS, CORNERS), min_size=1, max_size=8),
    found=st.lists(st.tuples(IMAGES, LABELS, CORNERS, st.sampled_from([0.2, 0.5, 0.9])), max_size=12),
    crowd=st.booleans(),
)
@pytest.mark.parametrize("scorer", [lambda truth: build_scorer("bbox", truth=truth), VocScorer])
def test_whatever_is_detected_adds_up(
    scorer: Any, objects: list[Object], found: list[Found], crowd: bool
) -> None:
    truth, table = make_truth(objects, crowds=(0,) if crowd else ()), make_table(found)
    scores = scorer(truth).score(table)
    made, verdicts = analysis.analyse(table, truth=truth, scores=scores, classes=CLASSES)
    assert made.errors is not None
    chosen: NDArray[np.bool_] = scores.matching.is_counted & (table.scores >= made.errors.threshold)
    assert made.errors.detections == chosen.sum()
    assert sorted([*verdicts.right, *verdicts.wrong]) == np.flatnonzero(chosen).tolist()
    assert made.errors.detections == made.errors.right + sum(made.errors.wrong.values())
    assert made.objects == made.errors.objects
    assert made.objects == made.errors.right + made.errors.blamed + made.errors.missed
    assert made.objects == sum(item.objects for item in made.classes)
    assert made.objects == sum(item.count for item in made.confusions if item.truth)
    assert made.errors.detections == sum(item.count for item in made.confusions if item.detected)
