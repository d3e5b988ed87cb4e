"""The single shot detector's head: hard negatives, the one best anchor of each object, both axes' scales."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import golden_files
import trainer_builders
from kubedet_trainer.models import dense
from kubedet_trainer.models.dense import DenseTargets
from kubedet_trainer.models.ssd import Ssd, SsdHead


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return golden_files.read_unit("ssd_hnm")


def _head() -> SsdHead:
    return trainer_builders.make_one(Ssd, "ssd").bbox_head


def _mined(golden: dict[str, Any], *cases: str) -> dict[str, torch.Tensor]:
    """The losses of a batch whose images are these cases of the goldens."""
    labels = torch.tensor([golden["cases"][case]["labels"] for case in cases])
    logits, deltas, wanted = (
        torch.tensor(golden[key]).expand(len(cases), -1, -1) for key in ("cls", "reg", "target")
    )
    targets = DenseTargets(
        labels=labels, deltas=wanted, positive=labels > 0, used=torch.ones_like(labels, dtype=torch.bool)
    )
    return _head().mined_losses(logits, deltas, targets)


@pytest.mark.parametrize("case", ["three_pos_N3", "nine_pos_N9", "no_pos_N1"])
def test_losses_of_hard_negatives_equal_the_goldens(golden: dict[str, Any], case: str) -> None:
    for name, losses in _mined(golden, case).items():
        assert losses.tolist() == pytest.approx([golden["cases"][case][name]], rel=1e-6)


def test_each_image_mines_its_own_negatives_and_all_share_one_divisor(golden: dict[str, Any]) -> None:
    cases = ["three_pos_N5", "no_pos_N1", "no_pos_N1"]  # 3 + 1 + 1

    for name, losses in _mined(golden, *cases).items():
        expected = [golden["cases"][case][name] for case in cases]
        assert losses.tolist() == pytest.approx(expected, rel=1e-6)


def test_object_that_fits_no_anchor_has_exactly_one() -> None:
    detector = trainer_builders.make_one(Ssd, "ssd")
    sources = detector.backbone(trainer_builders.make_images("ssd").pixels[:1])
    head = detector.bbox_head
    anchors = head(sources).anchors
    targets = trainer_builders.make_targets([[[100.0, 100, 290, 108]]])

    wanted = dense.assign(
        head.assigner, anchors, targets, taking_part=torch.ones(1, len(anchors), dtype=torch.bool)
    )

    assert len(anchors) == 8732
    assert wanted.positive.sum() == 1
    assert wanted.used.all(), "all others are negative"


def test_boxes_return_to_the_original_image_along_each_axis() -> None:
    detector = trainer_builders.make_one(Ssd, "ssd").eval()
    images = trainer_builders.make_images("ssd")
    factors = torch.tensor([0.5, 3.0, 0.5, 3.0]).expand(2, 4)
    detector.bbox_head.options = replace(detector.bbox_head.options, nms_iou=1.0)

    resized = detector.detect(images, torch.ones(2, 4))
    original = detector.detect(images, factors)

    for before, after in zip(resized, original, strict=True):
        torch.testing.assert_close(after.boxes, before.boxes / factors[0])
