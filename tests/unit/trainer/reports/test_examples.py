"""The pictures of a report."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

import report_builders
from dataset_builders import annotation_record, image_record, load_coco, write_annotations
from kubedet_trainer.data import splits
from kubedet_trainer.evaluation import analysis
from kubedet_trainer.evaluation.coco import build_scorer
from kubedet_trainer.evaluation.detections import DetectionTable
from kubedet_trainer.reports import examples, page
from kubedet_trainer.reports.drawing import Picture

GREEN, RED, ORANGE = (108, 164, 48), (77, 72, 229), (13, 162, 242)


def has_colour(picture: Picture, colour: tuple[int, int, int]) -> bool:
    """Whether many pixels have this colour, as far as JPEG keeps it."""
    return bool((np.abs(picture.astype(int) - colour).max(axis=2) < 30).sum() > 60)


def test_objects_are_on_the_left_and_detections_on_the_right_by_their_verdict(tmp_path: Path) -> None:
    for number in (1, 2):
        cv2.imwrite(str(tmp_path / f"{number}.jpg"), np.full((48, 64, 3), 128, np.uint8))
    file = write_annotations(
        tmp_path / "instances.json",
        images=[image_record(1), image_record(2)],
        annotations=[annotation_record(1, image=1), annotation_record(2, image=2)],
    )
    loaded = load_coco(file, cache=tmp_path / "cache", truth=True)
    split = splits.validation_split(loaded, folder=tmp_path)
    truth = loaded.truth
    assert truth is not None
    right = truth.boxes[0] + [0, 0, truth.boxes[0][0] - 1, truth.boxes[0][1] - 1]
    table = DetectionTable(
        image_ids=np.array([1, 2]),
        labels=np.array([1, 1]),
        boxes=np.array([right, [40, 30, 60, 45]], np.float32),
        scores=np.array([0.9, 0.95], np.float32),
    )
    scores = build_scorer("bbox", truth=truth).score(table)
    made, verdicts = analysis.analyse(table, truth=truth, scores=scores, classes=list(loaded.classes))
    pictures = examples.draw_examples(
        split,
        table,
        matching=scores.matching,
        analysis=made,
        verdicts=verdicts,
        classes=list(loaded.classes),
    )
    assert set(pictures) == {"best-1", "worst-1"}
    best, worst = (
        np.asarray(cv2.imdecode(np.frombuffer(pictures[name], np.uint8), cv2.IMREAD_COLOR), np.uint8)
        for name in ("best-1", "worst-1")
    )
    half = best.shape[1] // 2
    found = {
        (name, side): [has_colour(part, colour) for colour in (GREEN, RED, ORANGE)]
        for name, picture in (("best", best), ("worst", worst))
        for side, part in (("left", picture[:, :half]), ("right", picture[:, half:]))
    }
    assert found == {
        ("best", "left"): [True, False, False],
        ("best", "right"): [True, False, False],
        ("worst", "left"): [False, False, True],
        ("worst", "right"): [False, True, False],
    }


def test_pictures_that_cannot_be_compressed_leave_the_page_below_2_mb() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (480, 966, 3), np.uint8)
    names = [f"{kind}-{number}" for kind in ("best", "worst") for number in range(1, 7)]
    pictures = examples._compress(dict.fromkeys(names, noise))
    content = page.render_run(report_builders.as_document(report_builders.make_report()), pictures=pictures)
    assert len(content) < 2_000_000
