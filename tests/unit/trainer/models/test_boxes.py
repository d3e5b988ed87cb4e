"""Boxes with inclusive corners: overlap, deltas, clipping."""

from __future__ import annotations

import pytest
import torch

import golden_files
from kubedet_trainer.models import boxes

FIRST = torch.tensor([10.0, 20.0, 109.0, 69.0])
SECOND = torch.tensor([20.0, 10.0, 89.0, 99.0])
CODER, IOU = golden_files.read_unit("coder"), golden_files.read_unit("iou")
RCNN_STDS = (0.1, 0.1, 0.2, 0.2)


def test_iou_counts_inclusive_corners() -> None:
    assert boxes.pairwise_iou(FIRST[None], SECOND[None]).item() == pytest.approx(0.448718, abs=1e-6)


def test_iou_of_many_equals_the_goldens() -> None:
    iou = boxes.pairwise_iou(torch.tensor(IOU["a"]), torch.tensor(IOU["b"]))

    torch.testing.assert_close(iou, torch.tensor(IOU["iou"]))


def test_encode_equals_the_hand_computed_deltas() -> None:
    deltas = boxes.encode(FIRST, SECOND, stds=RCNN_STDS)

    torch.testing.assert_close(deltas, torch.tensor([-0.5, 2.0, -1.783375, 2.938933]))


def test_decode_undoes_encode() -> None:
    deltas = boxes.encode(FIRST, SECOND, stds=RCNN_STDS)

    torch.testing.assert_close(boxes.decode(FIRST, deltas, stds=RCNN_STDS), SECOND)


def test_extreme_deltas_are_clamped_and_may_end_below_their_beginning() -> None:
    decoded = boxes.decode(FIRST, torch.tensor([0.5, -0.3, 6, -6]), sizes=torch.tensor([800, 1333]))

    torch.testing.assert_close(decoded, torch.tensor([0, 29.6, 1332, 29.4]))


def test_coder_equals_the_goldens() -> None:
    golden = {key: torch.tensor(value) for key, value in CODER.items()}
    proposals, stds = golden["proposals"], tuple(CODER["stds"])

    torch.testing.assert_close(boxes.encode(proposals, golden["gts"], stds=stds), golden["deltas"])
    torch.testing.assert_close(boxes.decode(proposals, golden["deltas"], stds=stds), golden["decoded"])


def test_each_class_of_a_box_is_decoded_by_its_own_deltas() -> None:
    deltas = torch.tensor(CODER["multiclass_in"]).view(2, 2, 4)
    proposals = torch.tensor(CODER["proposals"])[:2, None]

    decoded = boxes.decode(proposals, deltas, sizes=torch.tensor([150, 200]), stds=tuple(CODER["stds"]))

    torch.testing.assert_close(decoded.view(2, 8), torch.tensor(CODER["multiclass_decoded"]))


def test_inside_takes_the_size_before_padding() -> None:
    candidates = torch.tensor([[0.0, 0, 9, 9], [0, 0, 10, 9], [0, 0, 9, 10], [-1, 0, 5, 5], [0, -1, 5, 5]])

    assert boxes.inside(candidates, torch.tensor([10, 10])).tolist() == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("golden", "sizes"), [("clip_decoded_noshape", None), ("clip_decoded_200x150", torch.tensor([150, 200]))]
)
def test_decoded_boxes_are_clipped_only_where_a_size_is_given(
    golden: str, sizes: torch.Tensor | None
) -> None:
    proposals = torch.tensor(CODER["proposals"])
    deltas = torch.tensor(CODER["clip_deltas"])

    decoded = boxes.decode(proposals, deltas, sizes=sizes)

    torch.testing.assert_close(decoded, torch.tensor(CODER[golden]))


def test_areas_turn_iou_into_the_golden_share_of_the_first_box() -> None:
    first, second = torch.tensor(IOU["a"]), torch.tensor(IOU["b"])
    iou = boxes.pairwise_iou(first, second)
    intersection = iou * (boxes.areas(first)[:, None] + boxes.areas(second)) / (1 + iou)

    torch.testing.assert_close(intersection / boxes.areas(first)[:, None], torch.tensor(IOU["iof"]))
