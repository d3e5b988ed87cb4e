"""Losses equal the goldens and stay finite, gradients too, where slots are empty."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import golden_files
from kubedet_trainer.models import losses


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return golden_files.read_unit("losses")


@pytest.mark.parametrize(
    ("beta", "name"), [(1, "smoothl1_b1_avg7"), (1 / 9, "smoothl1_b1_9_avg7"), (0.11, "smoothl1_b0_11_avg7")]
)
def test_smooth_l1_equals_the_goldens(golden: dict[str, Any], beta: float, name: str) -> None:
    x, y, weight = (torch.tensor(golden[key]).view(-1, 1) for key in ("x", "y", "w"))

    each = losses.smooth_l1(x, y, used=weight[:, 0] > 0, beta=beta)

    assert each.sum().item() / 7 == pytest.approx(golden[name], rel=1e-6)


def test_cross_entropy_equals_the_goldens(golden: dict[str, Any]) -> None:
    labels, used = torch.tensor([0, 1, 2, 3, 1, 0]), torch.tensor(golden["w"])[:, 0] > 0

    each = losses.cross_entropy(torch.tensor(golden["x"]), labels, used=used)

    assert each.sum().item() / 5 == pytest.approx(golden["ce_avg5"], rel=1e-6)


def test_binary_cross_entropy_equals_the_goldens(golden: dict[str, Any]) -> None:
    x, y, weight = (torch.tensor(golden[key]) for key in ("x", "y", "w"))

    each = losses.binary_cross_entropy(x, y > 0, used=weight > 0)

    assert each.sum().item() / 5 == pytest.approx(golden["bce_avg5"], rel=1e-6)


def test_focal_loss_equals_the_goldens(golden: dict[str, Any]) -> None:
    x, y, weight = (torch.tensor(golden[key])[..., None] for key in ("x", "y", "w"))

    each = losses.focal(x, (y[..., 0] > 0).long(), used=weight[..., 0] > 0, gamma=2.0, alpha=0.25)

    assert each.sum().item() / 3 == pytest.approx(golden["focal_avg3"], rel=1e-6)


def test_focal_loss_of_labels_counts_every_class() -> None:
    logits = torch.tensor([[0.3, -1.2], [2.0, 0.1], [9.0, 9.0]])

    each = losses.focal(
        logits, torch.tensor([1, 2, 0]), used=torch.tensor([True, True, False]), gamma=2.0, alpha=0.25
    )

    assert each.sum().item() == pytest.approx(1.309588, abs=1e-6)


def test_gradient_of_the_focal_loss_is_that_of_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 3, generator=generator, dtype=torch.float64).mul(3).requires_grad_()
    labels = torch.tensor([0, 1, 2, 3, 0, 2])
    used = torch.tensor([True] * 5 + [False])

    assert torch.autograd.gradcheck(
        lambda x: losses.focal(x, labels, used=used, gamma=1.5, alpha=0.3), logits
    )


def test_focal_loss_stays_finite_for_extreme_logits() -> None:
    logits = torch.tensor([[-200.0, 200.0], [200.0, -200.0]], requires_grad=True)

    each = losses.focal(logits, torch.tensor([1, 1]), used=torch.tensor([True, True]), gamma=2.0, alpha=0.25)
    (gradient,) = torch.autograd.grad(each.sum(), logits)

    assert each.tolist() == pytest.approx([0.25 * 200 + 0.75 * 200, 0])
    assert gradient.tolist() == [[-0.25, 0.75], [0, 0]]


@pytest.mark.parametrize(("difference", "loss"), [(0.05, 0.01125), (0.2, 0.144444), (1, 0.944444)])
def test_smooth_l1_of_the_proposal_network_at_its_knee(difference: float, loss: float) -> None:
    each = losses.smooth_l1(
        torch.tensor([[difference]]), torch.zeros(1, 1), used=torch.tensor([True]), beta=1 / 9
    )

    assert each.item() == pytest.approx(loss, abs=1e-6)


def test_infinite_target_of_an_empty_slot_leaves_no_gradient() -> None:
    deltas = torch.ones(2, 4, requires_grad=True)
    targets = torch.tensor([[float("inf")] * 4, [0.0] * 4])

    loss = losses.smooth_l1(deltas, targets, used=torch.tensor([False, True]), beta=1.0).sum()
    (gradient,) = torch.autograd.grad(loss, deltas)

    assert gradient.tolist() == [[0] * 4, [1] * 4]
