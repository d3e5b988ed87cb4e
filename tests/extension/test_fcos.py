"""What is FCOS's own. Everything else is tested by the tests of all detectors (`trainer_builders.SMALL`)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import trainer_builders
from kubedet_trainer.recipes import read_recipe
from kubedet_trainer.structures import Images
from kubedet_trainer.training.counting import count_step
from my_detectors.fcos import Fcos, FcosHead, FcosOutput, FcosTargets, overlaps

HEIGHT, WIDTH = 192, 256


@pytest.fixture
def head() -> FcosHead:
    """Of a pyramid of strides 8, 16 and 32."""
    return trainer_builders.make_one(Fcos, "fcos").bbox_head


@pytest.fixture
def output(head: FcosHead) -> FcosOutput:
    channels = head.fcos_cls.in_channels
    levels = [torch.zeros(1, channels, HEIGHT // side, WIDTH // side) for side in head.strides]
    with torch.no_grad():
        output: FcosOutput = head(levels)
    return output


def _assign(head: FcosHead, output: FcosOutput, *boxes: list[float]) -> FcosTargets:
    return head.assign(output, trainer_builders.make_targets([boxes], size=(HEIGHT, WIDTH)))


def test_untrained_head_finds_every_object_improbable(output: FcosOutput) -> None:
    torch.testing.assert_close(output.logits.sigmoid(), torch.full_like(output.logits, 0.01))


@pytest.mark.parametrize(
    ("box", "stride"),
    [
        ([10.0, 10.0, 49.0, 49.0], 8),
        ([10.0, 10.0, 169.0, 169.0], 16),
        ([0.0, 0.0, 255.0, 191.0], 32),
    ],
)
def test_object_belongs_to_the_level_of_its_size_and_to_the_locations_within(
    head: FcosHead, output: FcosOutput, box: list[float], stride: int
) -> None:
    found = _assign(head, output, box)
    centre = torch.tensor([box[0] + box[2], box[1] + box[3]]) / 2

    positive = found.positive[0]
    near = (output.points - centre).abs().amax(dim=-1) < stride / 2
    assert positive[near & (output.strides == stride)].all()
    points = output.points[positive]
    assert ((points > torch.tensor(box[:2])) & (points < torch.tensor(box[2:]))).all()


def test_location_in_two_objects_stands_for_the_smaller(head: FcosHead, output: FcosOutput) -> None:
    found = _assign(head, output, [10.0, 10.0, 59.0, 59.0], [22.0, 22.0, 45.0, 45.0])

    inner = ((output.points > 22) & (output.points < 45)).all(dim=-1) & (output.strides == 8)
    assert found.labels[0, inner].tolist() == [2] * int(inner.sum())
    assert set(found.labels[0, found.positive[0] & ~inner].tolist()) == {1}


def test_centreness_is_one_in_the_centre_and_falls_to_the_rim() -> None:
    sides = torch.tensor([[20.0, 10, 20, 10], [10, 10, 30, 10], [1, 10, 39, 10]])

    found = FcosTargets(labels=torch.ones(3, dtype=torch.int64), sides=sides).centreness

    torch.testing.assert_close(found, torch.tensor([1.0, (1 / 3) ** 0.5, (1 / 39) ** 0.5]))


def test_overlap_of_boxes_around_one_point_is_that_of_the_boxes() -> None:
    sides, others = torch.tensor([10.0, 10, 10, 10]), torch.tensor([10.0, 10, 20, 10])

    assert overlaps(sides, sides) == 1
    torch.testing.assert_close(overlaps(sides, others), torch.tensor(400 / 600))


def test_head_that_says_what_it_should_detects_the_object_and_has_no_loss_of_its_sides(
    head: FcosHead, output: FcosOutput
) -> None:
    box = [10.0, 10.0, 49.0, 49.0]
    wanted = _assign(head, output, box)
    logits = torch.full_like(output.logits, -20.0)
    logits[wanted.positive] = torch.tensor([20.0, -20.0, -20.0])
    centreness = wanted.centreness.logit(eps=1e-4).masked_fill(~wanted.positive, -20)
    right = replace(output, logits=logits, sides=wanted.sides, centreness=centreness)
    images = Images(pixels=torch.zeros(1, 3, HEIGHT, WIDTH), sizes=torch.tensor([[HEIGHT, WIDTH]]))

    losses = head.losses(right, trainer_builders.make_targets([[box]], size=(HEIGHT, WIDTH)))
    (found,) = head.detect(right, images, torch.ones(1, 4))

    assert losses["loss_cls"] < 1e-3
    assert losses["loss_reg"] == 0
    assert found.labels[0] == 1
    torch.testing.assert_close(found.boxes[0], torch.tensor(box))


def test_its_cost_is_counted_without_values() -> None:
    cost = count_step(read_recipe("my_detectors.recipes:smoke_fcos")).cost
    assert cost.memory.activations > 0
    assert cost.backward.flops > cost.forward.flops > 0
