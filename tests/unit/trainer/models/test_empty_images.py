"""Images without objects as examples of background."""

from __future__ import annotations

import pytest
import torch

import trainer_builders


@pytest.mark.parametrize("architecture", trainer_builders.SMALL)
def test_a_batch_without_any_object_has_finite_losses_and_gradients(architecture: str) -> None:
    detector = trainer_builders.make_detector(architecture).train()
    images = trainer_builders.make_images(architecture)
    targets = trainer_builders.make_targets([[], []])
    losses = detector(images, targets, torch.Generator().manual_seed(0))
    terms = {name: value for name, value in losses.items() if "loss" in name}
    torch.autograd.backward(torch.stack(list(terms.values())).sum())
    gradients = [value.grad for value in detector.parameters() if value.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert all(value == 0 for name, value in terms.items() if name.endswith(("_reg", "_mask")))
