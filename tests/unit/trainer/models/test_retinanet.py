"""RetinaNet's head: which anchors count, what divides the losses, which become detections."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import trainer_builders
from kubedet_trainer.models import boxes as box_ops
from kubedet_trainer.models import dense, nms
from kubedet_trainer.models.dense import DenseOutput
from kubedet_trainer.models.retinanet import RetinaHead, RetinaNet
from kubedet_trainer.structures import Images

NUM_LABELS = 3


@pytest.fixture
def head() -> RetinaHead:
    return trainer_builders.make_one(RetinaNet, "retinanet", num_classes=NUM_LABELS + 1).bbox_head


def _output(head: RetinaHead, *, height: int = 64, width: int = 128) -> DenseOutput:
    """Random maps of two images of this size, as if `head` had made them."""
    generator = torch.Generator().manual_seed(0)
    num_anchors = head.anchor_grid.num_per_cell[0]
    shapes = [(-(-height // stride), -(-width // stride)) for stride in head.anchor_grid.strides]

    def maps(channels: int) -> list[torch.Tensor]:
        drawn = [torch.randn(2, channels, *shape, generator=generator) for shape in shapes]
        return [level.requires_grad_() for level in drawn]

    logits, deltas = maps(num_anchors * NUM_LABELS), maps(num_anchors * 4)
    return DenseOutput(logits=logits, deltas=deltas, anchors=head.anchor_grid(logits))


def _images(*sizes: tuple[int, int]) -> Images:
    return Images(pixels=torch.empty(2, 3, 64, 128), sizes=torch.tensor(sizes))


def test_untrained_head_finds_every_object_improbable(head: RetinaHead) -> None:
    features = [torch.zeros(1, head.retina_cls.in_channels, 4, 4)] * len(head.anchor_grid.strides)

    logits = head(features).logits[0]

    torch.testing.assert_close(logits.sigmoid(), torch.full_like(logits, 0.01))


def test_cells_beyond_an_images_own_padding_take_no_part(head: RetinaHead) -> None:
    output = _output(head)
    targets = trainer_builders.make_targets([[[5.0, 5, 40, 40]]] * 2)

    losses = head.level_losses(output, _images((50, 65), (64, 128)), targets)
    gradients = torch.autograd.grad(torch.stack(losses["loss_cls"]).sum(), output.logits)

    for stride, gradient in zip(head.anchor_grid.strides, gradients, strict=True):
        beyond = 96 // stride  # 65 columns are padded to 96
        assert gradient[0, ..., beyond:].abs().sum() == 0
        assert gradient[0, ..., beyond - 1].abs().sum() > 0
        assert gradient[1, ..., beyond:].abs().sum() > 0


@pytest.mark.parametrize(("boxes", "divisor"), [([[], []], 2), ([[[0.0, 0, 31, 31]], []], 16 + 1)])
def test_losses_are_divided_by_the_positives_and_by_one_an_image_at_least(
    head: RetinaHead, boxes: list[list[list[float]]], divisor: int
) -> None:
    output, images = _output(head), _images((64, 128), (64, 128))
    targets = trainer_builders.make_targets(boxes)
    everywhere = torch.ones(2, len(output.anchors), dtype=torch.bool)
    wanted = dense.assign(head.assigner, output.anchors, targets, taking_part=everywhere)

    by_level = head.level_losses(output, images, targets)

    logits = dense.all_levels(output.logits, NUM_LABELS).double()
    own = torch.nn.functional.one_hot(wanted.labels, NUM_LABELS + 1)[..., 1:].bool()
    right = torch.where(own, logits, -logits).sigmoid()
    each = torch.where(own, 0.25, 0.75) * (1 - right) ** 2 * -right.log()
    positives = wanted.positive.sum(dim=1).clamp(min=1).sum()
    assert positives == divisor
    expected = each[wanted.used].sum() / positives
    assert torch.stack(by_level["loss_cls"]).sum().item() == pytest.approx(expected.item(), rel=1e-5)
    assert (torch.stack(by_level["loss_reg"]).sum() > 0) == any(boxes)


def test_detections_are_those_of_a_plain_computation_in_the_order_of_the_anchors(head: RetinaHead) -> None:
    output, images = _output(head), _images((64, 128), (60, 100))
    head.options = replace(head.options, nms_pre=10**6)
    scale_factors = torch.tensor([[1.0] * 4, [2.0] * 4])

    found = head.detect(output, images, scale_factors)

    boxes = box_ops.decode(output.anchors, dense.all_levels(output.deltas, 4), sizes=images.sizes[:, None])
    scores = dense.all_levels(output.logits, NUM_LABELS).sigmoid()
    scores = torch.cat([torch.zeros(*scores.shape[:2], 1), scores], dim=-1)
    original = (boxes / scale_factors[:, None])[:, :, None]
    for image, expected in zip(found, nms.detections(original, scores, options=head.options), strict=True):
        assert len(image.scores) == head.options.max_detections
        torch.testing.assert_close(image.boxes, expected.boxes)
        torch.testing.assert_close(image.scores, expected.scores)


def test_only_the_most_probable_anchors_of_each_level_become_detections(head: RetinaHead) -> None:
    output = _output(head)
    head.options = replace(head.options, nms_pre=1)
    best = [dense.per_anchor(level, NUM_LABELS)[0].sigmoid().amax() for level in output.logits]

    (found, _) = head.detect(output, _images((64, 128), (64, 128)), torch.ones(2, 4))

    assert len({tuple(box) for box in found.boxes.tolist()}) <= len(best)
    assert found.scores[0] == max(best)
