"""Suppression: inclusive corners, strict thresholds, fixed sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import golden_files
from kubedet_trainer.models import nms
from kubedet_trainer.models.options.boxes import DetectionOptions
from kubedet_trainer.structures import Detections

STACK = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [50, 50, 59, 59]])
SCORES = torch.tensor([0.9, 0.8, 0.7])


def _per_class(boxes: torch.Tensor, scores: torch.Tensor, **options: Any) -> Detections:
    return nms.suppress_per_class(boxes, scores, options=DetectionOptions(**options))


def test_survivors_are_padded_to_a_fixed_number() -> None:
    kept = nms.suppress(STACK, SCORES, iou_threshold=0.7, slots=5)

    assert kept.indices.tolist() == [0, 2, 0, 0, 0]
    assert kept.valid.tolist() == [True, True, False, False, False]


def test_only_the_best_survivors_fit() -> None:
    kept = nms.suppress(STACK, SCORES, iou_threshold=1.0, slots=2)

    assert kept.indices.tolist() == [0, 1]
    assert kept.valid.all()


@pytest.mark.parametrize(("threshold", "kept"), [(0.9, 3), (0.89, 2)])
def test_overlap_equal_to_the_threshold_does_not_suppress(threshold: float, kept: int) -> None:
    assert nms.suppress(STACK, SCORES, iou_threshold=threshold, slots=3).valid.sum() == kept


@pytest.mark.parametrize(("case", "limit"), [("per_class_top20", 20), ("shared_all", 1000)])
def test_detections_equal_the_goldens(case: str, limit: int) -> None:
    golden = golden_files.read_unit("multiclass_nms")
    scores = torch.tensor(golden["scores"])
    boxes = torch.tensor(golden["boxes"]).view(40, 4, 4)

    found = _per_class(boxes if case == "per_class_top20" else boxes[:, :1], scores, max_detections=limit)

    expected = {
        (*(round(value, 3) for value in box), label + 1)
        for box, label in zip(golden[case]["boxes"], golden[case]["labels"], strict=True)
    }
    assert expected == {
        (*(round(value, 3) for value in box), round(score, 3), label)
        for box, score, label in zip(
            found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
        )
    }


def test_score_equal_to_the_threshold_is_no_detection() -> None:
    scores = torch.tensor([[0.0, 0.05], [0.0, 0.06], [0.0, 0.04]])

    assert _per_class(STACK[:, None], scores).scores.tolist() == pytest.approx([0.06])


def test_classes_do_not_suppress_each_other_and_the_background_is_none() -> None:
    scores = torch.tensor([[0.9, 0.6, 0.1], [0.9, 0.1, 0.7], [0.9, 0.0, 0.0]])

    found = _per_class(STACK[:, None], scores, score_threshold=0.5)

    assert found.labels.tolist() == [2, 1]


def test_image_without_candidates_has_no_detections() -> None:
    found = _per_class(STACK[:, None], torch.zeros(3, 4))

    assert found.boxes.shape == (0, 4)
    assert found.scores.shape == found.labels.shape == (0,)
