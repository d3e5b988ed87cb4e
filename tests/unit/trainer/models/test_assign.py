"""The max-IoU assigner on the goldens' cases, with padding and without ground truth."""

from __future__ import annotations

import pytest
import torch

import golden_files
from kubedet_trainer.models.assign import IGNORED, NEGATIVE, MaxIouAssigner

RPN = MaxIouAssigner(positive_iou=0.7, negative_iou=0.3, min_positive_iou=0.3)
GT_BOXES = torch.tensor([[0.0, 0, 9, 9], [20, 20, 39, 39]])
ALL = torch.ones(2, dtype=torch.bool)


def _targets(assigner: MaxIouAssigner, *image: torch.Tensor) -> list[int]:
    """Those of a batch of one image."""
    targets: list[int] = assigner(*(values[None] for values in image)).targets[0].tolist()
    return targets


@pytest.mark.parametrize("case", ["rpn", "rcnn", "cascade2", "cascade3", "retina", "ssd"])
def test_assignment_equals_the_goldens(case: str) -> None:
    golden = golden_files.read_unit("assigner")
    expected = golden["cases"][case]
    assigner = MaxIouAssigner(
        positive_iou=expected["cfg"]["pos_iou_thr"],
        negative_iou=expected["cfg"]["neg_iou_thr"],
        min_positive_iou=expected["cfg"]["min_pos_iou"],
        share_best=expected["cfg"].get("gt_max_assign_all", True),
    )
    candidates = torch.tensor(expected["boxes"])
    padded = torch.cat([torch.tensor(golden["gts"]), torch.zeros(3, 4)])
    valid = torch.arange(len(padded)) < len(golden["gts"])

    every = torch.ones(1, len(candidates), dtype=torch.bool)
    assignment = assigner(candidates, every, padded[None], valid[None])

    assert assignment.targets[0].tolist() == expected["gt_inds"]
    torch.testing.assert_close(assignment.overlaps[0], torch.tensor(expected["max_overlaps"]))


def test_box_that_takes_no_part_is_ignored_and_is_nobodys_best() -> None:
    candidates = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 4]])

    targets = _targets(RPN, candidates, torch.tensor([False, True]), GT_BOXES, ALL)

    assert targets == [IGNORED, 1], "the second is the best of those that take part"


def test_without_ground_truth_everything_is_negative() -> None:
    candidates = torch.tensor([[0.0, 0, 9, 9], [50, 50, 59, 59]])

    targets = _targets(RPN, candidates, ALL, torch.zeros(3, 4), torch.zeros(3, dtype=torch.bool))

    assert targets == [NEGATIVE, NEGATIVE]


def test_later_ground_truth_takes_a_tied_box_from_an_earlier_one() -> None:
    twins = GT_BOXES[[0, 0]]

    assert _targets(RPN, GT_BOXES[:1], ALL[:1], twins, ALL) == [2]


def test_all_boxes_that_tie_for_the_best_overlap_are_positive() -> None:
    halves = torch.tensor([[0.0, 0, 9, 4], [0, 5, 9, 9], [0, 0, 9, 3]])

    assert _targets(RPN, halves, torch.ones(3, dtype=torch.bool), GT_BOXES, ALL) == [1, 1, IGNORED]


def test_only_the_first_of_tied_boxes_is_positive_where_the_best_is_not_shared() -> None:
    halves = torch.tensor([[0.0, 0, 9, 3], [0, 0, 9, 4], [0, 5, 9, 9]])
    assigner = MaxIouAssigner(positive_iou=0.6, negative_iou=0.6, min_positive_iou=0, share_best=False)

    targets = _targets(assigner, halves, torch.ones(3, dtype=torch.bool), GT_BOXES[:1], ALL[:1])

    assert targets == [NEGATIVE, 1, NEGATIVE]


def test_each_image_of_a_batch_is_assigned_by_itself() -> None:
    candidates = torch.tensor([[[0.0, 0, 9, 9], [50, 50, 59, 59]], [[50.0, 50, 59, 59], [0, 0, 9, 9]]])
    taking_part = torch.tensor([[True, True], [True, False]])
    gt_boxes = torch.stack([GT_BOXES, GT_BOXES.flip(0)])
    gt_valid = torch.tensor([[True, False], [True, True]])

    together = RPN(candidates, taking_part, gt_boxes, gt_valid).targets.tolist()

    one_by_one = [
        _targets(RPN, *image) for image in zip(candidates, taking_part, gt_boxes, gt_valid, strict=True)
    ]
    assert together == one_by_one
    assert together[0] != together[1]
