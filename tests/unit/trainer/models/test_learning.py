"""Every detector learns: on two images again and again its loss falls."""

from __future__ import annotations

import pytest
import torch

import trainer_builders

STEPS = 15


@pytest.mark.parametrize("architecture", trainer_builders.SMALL)
def test_loss_falls_on_the_same_images(architecture: str) -> None:
    detector = trainer_builders.make_detector(architecture).train()
    images = trainer_builders.make_images(architecture)
    objects = trainer_builders.TWO_OBJECTS
    targets = trainer_builders.make_targets([objects, objects[:1]], size=images.pixels.shape[2:])
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.01, momentum=0.9)

    totals = []
    for _ in range(STEPS):
        total = sum(detector(images, targets, torch.Generator().manual_seed(0)).values())
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 5.0)
        optimizer.step()
        totals.append(total.item())

    assert totals[-1] < 0.7 * totals[0]
