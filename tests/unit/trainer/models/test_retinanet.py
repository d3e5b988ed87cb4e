"""RetinaNet's head: which anchors count, what divides the losses, which become detections."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import trainer_builders
from kubedet_trainer.models import boxes as box_ops
from kubedet_trainer.models import dense, nms
from kubedet_trainer.models.retinanet import RetinaHead, RetinaNet, RetinaOutput
from kubedet_trainer.models.sheet import Sheet
from kubedet_trainer.structures import Images

NUM_LABELS = 3


@pytest.fixture
def head() -> RetinaHead:
    return trainer_builders.make_one(RetinaNet, "retinanet", num_classes=NUM_LABELS + 1).bbox_head


def _features(head: RetinaHead, *, height: int = 64, width: int = 128) -> list[torch.Tensor]:
    """Random levels of two images of this size."""
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(
            2,
            head.retina_cls.in_channels,
            -(-height // stride),
            -(-width // stride),
            generator=generator,
            requires_grad=True,
        )
        for stride in head.anchor_grid.strides
    ]


def _output(head: RetinaHead) -> RetinaOutput:
    """Random maps of two images, as if `head` had made them."""
    generator = torch.Generator().manual_seed(0)
    num_anchors = head.anchor_grid.num_per_cell[0]
    features = _features(head)
    sheet = Sheet([feature.shape[-2:] for feature in features])

    def maps(channels: int) -> list[torch.Tensor]:
        shapes = features[0].shape[-2:], sheet.size
        return [torch.randn(2, channels, *shape, generator=generator, requires_grad=True) for shape in shapes]

    logits, deltas = maps(num_anchors * NUM_LABELS), maps(num_anchors * 4)
    return RetinaOutput(logits=logits, deltas=deltas, anchors=head.anchor_grid(features), sheet=sheet)


def _images(*sizes: tuple[int, int]) -> Images:
    return Images(pixels=torch.empty(2, 3, 64, 128), sizes=torch.tensor(sizes))


def test_untrained_head_finds_every_object_improbable(head: RetinaHead) -> None:
    features = [torch.zeros(1, head.retina_cls.in_channels, 4, 4)] * len(head.anchor_grid.strides)

    logits = head(features).logits[0]

    torch.testing.assert_close(logits.sigmoid(), torch.full_like(logits, 0.01))


def test_every_level_gets_what_the_layers_give_it_alone() -> None:
    head = trainer_builders.make_one(RetinaNet, "retinanet", num_classes=NUM_LABELS + 1).bbox_head.double()
    for weight in head.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    features = [level.detach().double().requires_grad_() for level in _features(head)]
    learning = [*features, *head.parameters()]

    def alone(tower: torch.nn.ModuleList, last: torch.nn.Module) -> list[torch.Tensor]:
        levels = features
        for conv in tower:
            levels = [torch.relu(conv(level)) for level in levels]
        return [last(level) for level in levels]

    output = head(features)
    found = [*output.sheet.levels(output.logits), *output.sheet.levels(output.deltas)]

    expected = [*alone(head.cls_convs, head.retina_cls), *alone(head.reg_convs, head.retina_reg)]
    torch.testing.assert_close(found, expected)
    gradients, wanted = (
        torch.autograd.grad(torch.stack([level.sin().sum() for level in levels]).sum(), learning)
        for levels in (found, expected)
    )
    torch.testing.assert_close(gradients, wanted)


def test_cells_beyond_an_images_own_padding_take_no_part(head: RetinaHead) -> None:
    output = _output(head)
    targets = trainer_builders.make_targets([[[5.0, 5, 40, 40]]] * 2)

    losses = head.anchor_losses(output, _images((50, 65), (64, 128)), targets)
    gradients = torch.autograd.grad(losses["loss_cls"].sum(), output.logits)

    levels = output.sheet.levels(gradients)
    for stride, gradient in zip(head.anchor_grid.strides, levels, strict=True):
        beyond = 96 // stride  # 65 columns are padded to 96
        assert gradient[0, ..., beyond:].abs().sum() == 0
        assert gradient[0, ..., beyond - 1].abs().sum() > 0
        assert gradient[1, ..., beyond:].abs().sum() > 0
    in_gaps = torch.ones(output.sheet.size, dtype=torch.bool)
    for place in output.sheet.places:
        in_gaps[place] = False
    assert in_gaps.any()
    assert not gradients[1][..., in_gaps].any()


@pytest.mark.parametrize(("boxes", "divisor"), [([[], []], 2), ([[[0.0, 0, 31, 31]], []], 16 + 1)])
def test_losses_are_divided_by_the_positives_and_by_one_an_image_at_least(
    head: RetinaHead, boxes: list[list[list[float]]], divisor: int
) -> None:
    output, images = _output(head), _images((64, 128), (64, 128))
    targets = trainer_builders.make_targets(boxes)
    everywhere = output.anchors.isfinite().all(dim=1).expand(2, -1)
    wanted = dense.assign(head.assigner, output.anchors, targets, taking_part=everywhere)

    losses = head.anchor_losses(output, images, targets)

    logits = dense.all_levels(output.logits, NUM_LABELS).double()
    own = torch.nn.functional.one_hot(wanted.labels, NUM_LABELS + 1)[..., 1:].bool()
    right = torch.where(own, logits, -logits).sigmoid()
    each = torch.where(own, 0.25, 0.75) * (1 - right) ** 2 * -right.log()
    positives = wanted.positive.sum(dim=1).clamp(min=1).sum()
    assert positives == divisor
    expected = each[wanted.used].sum() / positives
    assert losses["loss_cls"].sum().item() == pytest.approx(expected.item(), rel=1e-5)
    assert (losses["loss_reg"].sum() > 0) == any(boxes)


def test_detections_are_those_of_a_plain_computation_in_the_order_of_the_anchors(head: RetinaHead) -> None:
    output, images = _output(head), _images((64, 128), (60, 100))
    head.options = replace(head.options, nms_pre=10**6)
    scale_factors = torch.tensor([[1.0] * 4, [2.0] * 4])

    found = head.detect(output, images, scale_factors)

    real = output.anchors.isfinite().all(dim=1)
    deltas = dense.all_levels(output.deltas, 4)[:, real]
    boxes = box_ops.decode(output.anchors[real], deltas, sizes=images.sizes[:, None])
    scores = dense.all_levels(output.logits, NUM_LABELS)[:, real].sigmoid()
    scores = torch.cat([torch.zeros(*scores.shape[:2], 1), scores], dim=-1)
    original = (boxes / scale_factors[:, None])[:, :, None]
    for image, expected in zip(found, nms.detections(original, scores, options=head.options), strict=True):
        assert len(image.scores) == head.options.max_detections
        torch.testing.assert_close(image.boxes, expected.boxes)
        torch.testing.assert_close(image.scores, expected.scores)


def test_only_the_most_probable_anchors_of_each_level_become_detections(head: RetinaHead) -> None:
    output = _output(head)
    head.options = replace(head.options, nms_pre=1)
    levels = output.sheet.levels(output.logits)
    best = [dense.per_anchor(level, NUM_LABELS)[0].sigmoid().amax() for level in levels]

    (found, _) = head.detect(output, _images((64, 128), (64, 128)), torch.ones(2, 4))

    assert len({tuple(box) for box in found.boxes.tolist()}) <= len(best)
    assert found.scores[0] == max(best)
