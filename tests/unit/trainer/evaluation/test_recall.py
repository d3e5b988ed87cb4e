"""The zoo's fast recall of proposals."""

from __future__ import annotations

import numpy as np
import pytest

import golden_files
from kubedet_trainer.evaluation import recall

BOX = [0, 0, 9, 9]
HALF = [0, 0, 9, 4]
FAR = [50, 50, 59, 59]


def boxes(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def test_recall_equals_the_zoos() -> None:
    golden = golden_files.read_unit("recall_fast")
    for limit, recalls, expected in zip(golden["nums"], golden["recalls"], golden["ar"], strict=True):
        matched = []
        for truth, proposals in zip(golden["gts"], golden["proposals"], strict=True):
            best = sorted(proposals, key=lambda row: -row[4])[:limit]
            found = np.array(best, np.float32)[:, :4]
            matched.append(recall.match_best(np.array(truth, np.float32), found))
        assert recall.average_recall(matched) == pytest.approx(100 * expected)
        shares = [(np.concatenate(matched) >= threshold).mean() for threshold in np.arange(10, 20) / 20]
        assert shares == pytest.approx(recalls)


def test_best_proposals_of_each_image_count() -> None:
    share = recall.recall_of_best(
        {7: boxes(BOX), 3: boxes(), 5: boxes(BOX, FAR)},
        image_ids=np.array([5, 7, 5, 7]),
        boxes=boxes(BOX, FAR, FAR, BOX),
        scores=np.array([0.1, 0.9, 0.4, 0.8], np.float32),
        limit=1,
    )
    assert share == pytest.approx(100 / 3)


def test_a_proposal_serves_one_object_only() -> None:
    assert recall.match_best(boxes(HALF, BOX), boxes(BOX, FAR)).tolist() == [1.0, 0.0]
    assert recall.match_best(boxes(HALF, BOX), boxes(BOX)).tolist() == [1.0, -1.0]


def test_an_image_without_proposals_or_objects_counts_its_objects() -> None:
    nothing = recall.match_best(boxes(), boxes(BOX))
    missed = recall.match_best(boxes(BOX), boxes())
    found = recall.match_best(boxes(BOX), boxes(BOX))
    assert recall.average_recall([nothing, missed, found]) == 50
    assert recall.average_recall([nothing]) is None
