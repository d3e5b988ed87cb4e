"""Suppression: inclusive corners, strict thresholds, sections apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import golden_files
import trainer_builders
from kubedet_trainer.models import nms
from kubedet_trainer.models.options.boxes import DetectionOptions
from kubedet_trainer.structures import Detections

STACK = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [50, 50, 59, 59]])
SCORES = torch.tensor([0.9, 0.8, 0.7])


def _per_class(boxes: torch.Tensor, scores: torch.Tensor, **options: Any) -> Detections:
    return nms.suppress_per_class(boxes, scores, options=DetectionOptions(**options))


def _survivors(*, iou_threshold: float, most: int = 3) -> list[bool]:
    kept = nms.survivors(
        STACK[None], SCORES[None], sections=[3], iou_threshold=iou_threshold, most=most, extent=60
    )
    flags: list[bool] = kept[0].tolist()
    return flags


def test_a_better_box_suppresses_what_it_overlaps() -> None:
    assert _survivors(iou_threshold=0.7) == [True, False, True]


def test_a_section_keeps_its_best_survivors() -> None:
    assert _survivors(iou_threshold=1.0, most=2) == [True, True, False]
    assert _survivors(iou_threshold=0.7, most=1) == [True, False, False]


@pytest.mark.parametrize(("threshold", "kept"), [(0.9, 3), (0.89, 2)])
def test_overlap_equal_to_the_threshold_does_not_suppress(threshold: float, kept: int) -> None:
    assert sum(_survivors(iou_threshold=threshold)) == kept


def test_sections_and_images_do_not_suppress_each_other_on_a_gpu_either() -> None:
    generator = torch.Generator().manual_seed(0)
    begins = torch.randint(0, 80, (3, 90, 2), generator=generator) * 0.7
    boxes = torch.cat([begins, begins + torch.randint(-1, 40, (3, 90, 2), generator=generator)], dim=-1)
    sections = [40, 30, 20]
    scores = torch.cat(
        [
            torch.rand(3, length, generator=generator).sort(dim=1, descending=True).values
            for length in sections
        ],
        dim=1,
    )

    def kept() -> torch.Tensor:
        return nms.survivors(boxes, scores, sections=sections, iou_threshold=0.5, most=25, extent=100)

    one_by_one = kept()
    with trainer_builders.as_on_gpu():
        all_at_once = kept()

    assert torch.equal(all_at_once, one_by_one)
    assert 20 < one_by_one.sum() < 250


CELLS = torch.Generator().manual_seed(0)


def _crowd(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, 3, 4) boxes on few cells and (N, 3) scores of few values: many overlaps and scores are equal."""
    begins = torch.randint(0, 12, (count, 3, 2), generator=CELLS).float()
    sides = torch.randint(4, 11, (count, 3, 2), generator=CELLS)
    scores = torch.randint(1, 20, (count, 3), generator=CELLS) / 20
    return torch.cat([begins, begins + sides - 1], dim=-1), scores


@pytest.mark.parametrize("iou_threshold", [0.5, 0.3, 0.7])
def test_groups_in_one_call_or_in_one_each_keep_the_same_boxes_in_the_same_order(
    monkeypatch: pytest.MonkeyPatch, iou_threshold: float
) -> None:
    boxes, scores = _crowd(600)  # more than torchvision puts into one call on a CPU

    def found(most_at_once: int) -> Detections:
        monkeypatch.setitem(nms._MOST_AT_ONCE, "cpu", most_at_once)
        return _per_class(boxes, scores, nms_iou=iou_threshold, max_detections=1000)

    one_each, at_once = found(0), found(10_000)

    assert torch.equal(one_each.boxes, at_once.boxes)
    assert torch.equal(one_each.labels, at_once.labels)
    assert len(set(one_each.scores.tolist())) < len(one_each.scores) < 1000
    assert one_each.scores.tolist() == sorted(one_each.scores.tolist(), reverse=True)
    with trainer_builders.as_on_gpu():
        assert torch.equal(found(10_000).boxes, one_each.boxes)


def _suppressed_on_a_gpu(iou: float, threshold: float) -> bool:
    """As torchvision's kernel for GPUs compares: an IoU in double precision with a threshold in single."""
    return iou > float(np.float32(threshold))


@pytest.mark.parametrize("threshold", [0.3, 0.45, 0.5, 0.6, 0.7, 0.9])
def test_overlap_equal_to_the_threshold_does_not_suppress_on_a_gpu_either(threshold: float) -> None:
    given = nms.float32_not_below(threshold)
    assert not _suppressed_on_a_gpu(threshold, given)
    assert _suppressed_on_a_gpu(threshold + 1e-7, given)


def test_a_gpu_would_take_the_threshold_for_less_than_it_is() -> None:
    assert _suppressed_on_a_gpu(0.9, 0.9)


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
