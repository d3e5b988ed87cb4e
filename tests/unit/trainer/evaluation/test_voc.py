"""VOC's mean average precision, to the zoo's numbers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import golden_files
from dataset_builders import annotation_record, image_record, load_truth, write_annotations
from kubedet_trainer.data.arrays import Truth
from kubedet_trainer.evaluation import voc
from kubedet_trainer.evaluation.detections import DetectionTable
from kubedet_trainer.evaluation.voc import Objects, VocScorer


def make_found(rows: Sequence[Sequence[float]]) -> DetectionTable:
    """Rows of image, label, x1, y1, x2, y2, score."""
    table = np.array(rows, np.float64).reshape(-1, 7)
    return DetectionTable(
        image_ids=table[:, 0].astype(np.int64),
        labels=table[:, 1].astype(np.int64),
        boxes=table[:, 2:6].astype(np.float32),
        scores=table[:, 6].astype(np.float32),
    )


def write_truth(folder: Path, rows: Sequence[tuple[int, int, Sequence[float], int]]) -> Truth:
    """Rows of image, label, box with inclusive corners, and whether it is difficult."""
    records = [
        annotation_record(
            number,
            image=image,
            bbox=(x1, y1, x2 - x1 + 1, y2 - y1 + 1),
            category_id=label,
            ignore=difficult,
        )
        for number, (image, label, (x1, y1, x2, y2), difficult) in enumerate(rows, start=1)
    ]
    images = [image_record(number, width=400, height=400) for number in sorted({row[0] for row in rows})]
    file = write_annotations(folder / "instances.json", images=images, annotations=records)
    os.utime(file, ns=(0, len(rows)))  # the same path is written more than once
    return load_truth(file, cache=folder)


@pytest.fixture
def golden() -> dict[str, Any]:
    return golden_files.read_unit("voc_ap")


def golden_found(golden: dict[str, Any]) -> DetectionTable:
    return make_found(
        [
            (image, label, *row)
            for image, classes in enumerate(golden["dets"], start=1)
            for label, rows in enumerate(classes, start=1)
            for row in rows
        ]
    )


def golden_truth(golden: dict[str, Any], folder: Path) -> Truth:
    columns = (golden["labels"], golden["gts"], golden["ignore"])
    return write_truth(
        folder,
        [
            (image, *row)
            for image, per_image in enumerate(zip(*columns, strict=True), start=1)
            for row in zip(*per_image, strict=True)
        ],
    )


@pytest.mark.parametrize(("form", "name"), [("11 points", "voc07"), ("area", "None")])
def test_curves_and_precision_are_the_zoos(
    golden: dict[str, Any], form: Any, name: str, tmp_path: Path
) -> None:
    expected = golden["result"][name]
    truth = Objects.of(golden_truth(golden, tmp_path))
    assert np.bincount(truth.labels[~truth.difficult]).tolist() == [0, *expected["num_gts"]]
    found = golden_found(golden)
    curves = voc.precision_curves(found, truth=truth, matching=voc.match(found, truth=truth))
    assert list(curves) == [1, 2]
    for index, curve in enumerate(curves.values()):
        np.testing.assert_allclose(curve.recalls, expected["recall"][index], rtol=1e-7)
        np.testing.assert_allclose(curve.precisions, expected["precision"][index], rtol=1e-7)
        precision = voc.average_precision(curve, form=form)
        assert precision == pytest.approx(expected["ap"][index], rel=1e-7)


def test_the_score_is_the_zoos_mean_in_percent(golden: dict[str, Any], tmp_path: Path) -> None:
    scorer = VocScorer(golden_truth(golden, tmp_path))
    expected = 100 * golden["result"]["voc07"]["mAP"]
    assert scorer.score(golden_found(golden)).figures == {"boxAP": pytest.approx(expected, rel=1e-7)}


def test_a_second_detection_of_an_object_is_wrong_and_one_of_a_difficult_object_counts_neither_way(
    tmp_path: Path,
) -> None:
    box, other = (10, 10, 29, 29), (40, 10, 59, 29)
    truth = Objects.of(write_truth(tmp_path, [(1, 1, other, 1), (1, 1, box, 0), (2, 2, box, 1)]))
    found = make_found([(1, 1, *other, 0.9), (1, 1, *box, 0.6), (1, 1, *box, 0.8), (3, 1, *box, 0.5)])
    matching = voc.match(found, truth=truth)
    (curve,) = voc.precision_curves(found, truth=truth, matching=matching).values()
    assert curve.recalls.tolist() == [0, 1, 1, 1]
    assert curve.precisions.tolist() == pytest.approx([0, 1, 1 / 2, 1 / 3])


def test_classes_without_an_object_do_not_count_and_missed_ones_do(tmp_path: Path) -> None:
    box = (10, 10, 29, 29)
    scorer = VocScorer(write_truth(tmp_path, [(1, 1, box, 0), (2, 2, box, 0)]))
    assert scorer.score(make_found([(1, 1, *box, 0.9)])).figures == {"boxAP": 50}
    assert scorer.score(make_found([])).figures == {"boxAP": 0}
    assert VocScorer(write_truth(tmp_path, [(1, 1, box, 1)])).score(make_found([])).figures == {}
