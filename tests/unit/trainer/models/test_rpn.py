"""The region proposal head: its loss is computed where it samples, and is that of the whole maps."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

import trainer_builders
from kubedet_trainer.models.options.two_stage import RpnHeadOptions
from kubedet_trainer.models.pooling import Cells, tabulate
from kubedet_trainer.models.rpn import RpnHead

CHANNELS, STRIDES = 3, (8, 16)


def _head() -> RpnHead:
    torch.manual_seed(0)
    options = RpnHeadOptions(anchor_scales=(2.0,), num_samples=10**6, positive_fraction=0.01)
    head = RpnHead(options, in_channels=CHANNELS, strides=STRIDES)
    for weight in head.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return head


def _features() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(2, CHANNELS, 96 // stride, 128 // stride, generator=generator, requires_grad=True)
        for stride in STRIDES
    ]


def _of_whole_maps(head: RpnHead, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Logits (B, N, 1) and deltas (B, N, 4) of all anchors, by convolutions with gradients."""
    hidden = [torch.relu(head.rpn_conv(feature)) for feature in features]
    return [
        torch.cat([conv(level).permute(0, 2, 3, 1).reshape(2, -1, width) for level in hidden], dim=1)
        for conv, width in ((head.rpn_cls, 1), (head.rpn_reg, 4))
    ]


def _gradients(
    head: RpnHead, features: Sequence[torch.Tensor], value: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(value, [*features, *head.parameters()])


def test_losses_of_the_samples_have_the_gradients_of_the_whole_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    head, features = _head(), _features()
    images = trainer_builders.make_images()
    targets = trainer_builders.make_targets([trainer_builders.TWO_OBJECTS, []])

    def losses() -> torch.Tensor:
        cells, generator = tabulate(features), torch.Generator().manual_seed(0)
        terms = head.losses(head(features), cells, images, targets, generator)
        return terms["loss_rpn_cls"] + terms["loss_rpn_reg"]

    sampled = losses()
    gradients = _gradients(head, features, sampled)
    logits, deltas = _of_whole_maps(head, features)

    def take(_cells: Cells, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = indices[..., None]
        return logits.gather(1, chosen).squeeze(2), deltas.gather(1, chosen.expand(-1, -1, 4))

    monkeypatch.setattr(head, "_judge", take)
    whole = losses()

    torch.testing.assert_close(sampled, whole)
    torch.testing.assert_close(gradients, _gradients(head, features, whole))
    assert all(gradient.any() for gradient in gradients)


def test_proposals_are_those_of_the_whole_maps() -> None:
    head, features = _head(), _features()

    output = head(features)

    whole = torch.cat(_of_whole_maps(head, features), dim=2)
    flat = [level.permute(0, 2, 3, 1).reshape(2, -1, 5) for level in output.maps]
    torch.testing.assert_close(torch.cat(flat, dim=1), whole)
    assert not any(level.requires_grad for level in output.maps)
