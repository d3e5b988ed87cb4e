"""The training step of every detector never waits for the device, and the guard that says so can fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import trainer_builders
from kubedet_trainer.config import Recipe
from kubedet_trainer.models.two_stage import Rpn


def _train_step(detector: nn.Module, recipe: Recipe) -> None:
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(0)
    made = trainer_builders.make_images(recipe.model.architecture)
    pixels = torch.randint(0, 255, made.pixels.shape, dtype=torch.uint8, generator=generator)
    batch = trainer_builders.make_batch(
        pixels,
        made.sizes,
        targets=trainer_builders.make_targets([trainer_builders.TWO_OBJECTS, []], size=pixels.shape[2:]),
        proposals=made.proposals,
    )

    def step() -> None:
        terms = detector(batch.images, batch.targets, generator)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 35.0)
        optimizer.step()

    with trainer_builders.forbid_host_synchronisation():
        step()


@pytest.mark.parametrize("architecture", trainer_builders.SMALL)
def test_training_step_never_waits_for_the_device(architecture: str) -> None:
    recipe = trainer_builders.SMALL[architecture]

    _train_step(recipe.build(num_classes=4).train(), recipe)


def test_item_planted_in_a_detector_is_caught_and_its_place_named(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = trainer_builders.SMALL["rpn"]
    detector = recipe.build(num_classes=4).train()
    assert isinstance(detector, Rpn)
    detector.neck.register_forward_hook(lambda _module, _inputs, levels: levels[0].sum().item() and None)

    with pytest.raises(trainer_builders.HostSynchronisation) as caught:
        _train_step(detector, recipe)

    assert f"{Path(__file__).name}:" in str(caught.value)
    assert "levels[0].sum().item()" in str(caught.value)


VALUES = torch.arange(6.0)
SYNCHRONISING: dict[str, Callable[[], object]] = {
    "float": lambda: float(VALUES[2]),
    "branch": lambda: "yes" if VALUES[2] > 0 else "no",
    "tolist": lambda: VALUES.tolist(),
    "numpy": lambda: VALUES.numpy(),
    "cpu": lambda: VALUES.cpu(),
    "nonzero": lambda: VALUES.nonzero(),
    "boolean index": lambda: VALUES[VALUES > 2],
    "boolean assignment": lambda: VALUES.clone().index_put_((VALUES > 2,), torch.zeros_like(VALUES)[0]),
    "masked_select": lambda: VALUES.masked_select(VALUES > 2),
    "where with one argument": lambda: torch.where(VALUES > 2),
    "unique": lambda: torch.unique(VALUES),
    "equal": lambda: torch.equal(VALUES, VALUES),
    "constant of the host": lambda: torch.tensor([1.0]),
    "another device": lambda: VALUES.to("meta"),
}


@pytest.mark.parametrize("name", SYNCHRONISING)
def test_guard_catches(name: str) -> None:
    with pytest.raises(trainer_builders.HostSynchronisation), trainer_builders.forbid_host_synchronisation():
        SYNCHRONISING[name]()


def test_guard_catches_an_operator_of_the_backward_pass() -> None:
    class Peeks(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * gradient.sum().item()

    weight = torch.ones(2, requires_grad=True)

    with pytest.raises(trainer_builders.HostSynchronisation), trainer_builders.forbid_host_synchronisation():
        torch.autograd.backward(Peeks.apply(weight).sum())
