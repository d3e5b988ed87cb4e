"""The loss of the validation split, for every detector."""

from __future__ import annotations

import math

import pytest
import torch

import trainer_builders
from kubedet_trainer.evaluation import loss
from kubedet_trainer.structures import Batch
from trainer_builders import SMALL, TWO_OBJECTS

CPU = torch.device("cpu")


def make_batches(architecture: str) -> list[Batch]:
    """Two images with objects and one without."""
    batches = []
    for seed, boxes in enumerate(([TWO_OBJECTS, TWO_OBJECTS[:1]], [[], TWO_OBJECTS])):
        images = trainer_builders.make_images(architecture, seed=seed)
        batches.append(
            trainer_builders.make_batch(
                images.pixels,
                images.sizes,
                targets=trainer_builders.make_targets(boxes, size=images.pixels.shape[2:]),
                proposals=images.proposals,
            )
        )
    return batches


@pytest.mark.parametrize("architecture", list(SMALL))
def test_every_detector_has_one_that_only_its_weights_change(architecture: str) -> None:
    detector = trainer_builders.make_detector(architecture).train()
    batches = make_batches(architecture)
    first, again = (loss.validation_loss(detector, batches, device=CPU, seed=0) for _ in range(2))
    assert first is not None
    assert math.isfinite(first)
    assert first > 0
    assert first == again
    assert detector.training
    assert all(parameter.grad is None for parameter in detector.parameters())
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.mul_(0.9)
    assert loss.validation_loss(detector, batches, device=CPU, seed=0) != first


def test_it_is_the_mean_over_the_batches() -> None:
    detector = trainer_builders.make_detector("retinanet")
    batches = make_batches("retinanet")
    alone = [loss.validation_loss(detector, [batch], device=CPU, seed=0) for batch in batches]
    together = loss.validation_loss(detector, batches, device=CPU, seed=0)
    assert None not in alone
    assert together == pytest.approx(sum(value for value in alone if value is not None) / 2)
    assert loss.validation_loss(detector, [], device=CPU, seed=0) is None
