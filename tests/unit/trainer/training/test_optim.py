"""The zoo's schedule, the shared batch, clipping, and SGD by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from kubedet_trainer.config import OptimizerConfig, ScheduleConfig, plan_batch
from kubedet_trainer.contract import BatchPolicy
from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.training import optim

ONE_X = ScheduleConfig(epochs=12, decay_epochs=(8, 11))


def _rate(iteration: int, *, schedule: ScheduleConfig = ONE_X, base: float = 0.02) -> float:
    return optim.learning_rate(iteration, base=base, iterations_per_epoch=7330, schedule=schedule)


@pytest.mark.parametrize(
    ("iteration", "share"),
    [(0, 1 / 3), (49, 0.39867), (250, 2 / 3), (499, 0.99867), (500, 1.0), (7330 * 8 - 1, 1.0)],
)
def test_warm_up_rises_as_the_zoo_states(iteration: int, share: float) -> None:
    assert _rate(iteration, base=1.0) == pytest.approx(share, abs=5e-6)


@pytest.mark.parametrize(("epoch", "rate"), [(7, 0.02), (8, 0.002), (10, 0.002), (11, 0.0002)])
def test_the_rate_decays_at_the_start_of_its_epochs(epoch: int, rate: float) -> None:
    assert _rate(epoch * 7330) == pytest.approx(rate)
    assert _rate((epoch + 1) * 7330 - 1) == pytest.approx(rate)


def test_without_warm_up_the_first_rate_is_the_base() -> None:
    schedule = ScheduleConfig(epochs=1, decay_epochs=(), warmup_iterations=0)
    assert _rate(0, schedule=schedule) == 0.02


@pytest.mark.parametrize(("world_size", "steps"), [(1, 8), (2, 4), (4, 2), (8, 1)])
def test_the_global_batch_is_kept_where_its_chunks_divide(world_size: int, steps: int) -> None:
    plan = plan_batch(global_batch=16, images_per_process=2, world_size=world_size)
    assert (plan.global_batch, plan.accumulation_steps, plan.lr_scale) == (16, steps, 1.0)


@pytest.mark.parametrize(("world_size", "batch"), [(3, 18), (5, 20), (16, 32), (24, 48)])
def test_else_the_rate_follows_the_batch_linearly(world_size: int, batch: int) -> None:
    plan = plan_batch(global_batch=16, images_per_process=2, world_size=world_size)
    assert plan.global_batch == batch
    assert plan.accumulation_steps * world_size * 2 == batch
    assert plan.lr_scale == batch / 16


@pytest.mark.parametrize(("world_size", "batch"), [(1, 2), (8, 16), (24, 48)])
def test_or_each_process_takes_one_chunk_and_the_rate_follows(world_size: int, batch: int) -> None:
    plan = plan_batch(
        global_batch=16,
        images_per_process=2,
        world_size=world_size,
        policy=BatchPolicy.SCALE_LEARNING_RATE,
    )
    assert (plan.global_batch, plan.accumulation_steps, plan.lr_scale) == (batch, 1, batch / 16)


def test_a_batch_that_chunks_do_not_fill_is_refused() -> None:
    with pytest.raises(
        InvalidInput, match=r"global_batch: got 15, must be a multiple of data.images_per_process"
    ):
        plan_batch(global_batch=15, images_per_process=2, world_size=1)


def test_sgd_decays_every_parameter_and_leaves_frozen_ones() -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 1)
    model = nn.Sequential(first.requires_grad_(False), second)
    frozen = first.weight.clone()
    weight, bias = second.weight.detach().clone(), second.bias.detach().clone()
    optimizer = optim.build_optimizer(model, config=OptimizerConfig(lr=1.0, momentum=0.9, weight_decay=0.1))
    optim.set_learning_rate(optimizer, 0.5)
    velocity = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(1, 2)).sum().backward()
        gradients = [part.grad.clone() for part in second.parameters() if part.grad is not None]
        optimizer.step()
        velocity = [
            0.9 * speed + gradient + 0.1 * value
            for speed, gradient, value in zip(velocity, gradients, (weight, bias), strict=True)
        ]
        weight, bias = weight - 0.5 * velocity[0], bias - 0.5 * velocity[1]
    torch.testing.assert_close(second.weight.detach(), weight)
    torch.testing.assert_close(second.bias.detach(), bias)
    assert torch.equal(first.weight, frozen)


@pytest.mark.parametrize(("max_norm", "after"), [(35.0, 5.0), (1.0, 1.0), (None, 5.0)])
def test_gradients_are_clipped_by_their_common_norm(max_norm: float | None, after: float) -> None:
    first, second, unused = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    first.grad, second.grad = torch.tensor([3.0]), torch.tensor([4.0])
    norm = optim.clip_gradients([first, second, unused], max_norm=max_norm)
    assert norm.item() == pytest.approx(5.0)
    assert torch.hypot(first.grad, second.grad).item() == pytest.approx(after, rel=1e-5)


@pytest.fixture
def unwritten_memory_is_nan() -> Iterator[None]:
    """What nobody has written reads as NaN, and not as the zeros that it mostly holds on a CPU."""
    torch.use_deterministic_algorithms(True)
    deterministic: Any = torch.utils.deterministic
    before = deterministic.fill_uninitialized_memory
    deterministic.fill_uninitialized_memory = True
    yield
    deterministic.fill_uninitialized_memory = before
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("unwritten_memory_is_nan")
def test_a_first_step_that_overflows_leaves_no_trace() -> None:
    """A scaler skips such a step, as the first ones in fp16 often are; the next begins from nothing."""
    model = nn.Linear(2, 1)
    config = OptimizerConfig(lr=0.5, momentum=0.9, weight_decay=0.0)
    optimizer = optim.build_optimizer(model, config=config)
    scaler = torch.amp.GradScaler("cpu")
    weight = model.weight.detach().clone()
    for inputs in (torch.full((1, 2), float("inf")), torch.ones(1, 2)):
        optimizer.zero_grad()
        scaler.scale(model(inputs).sum()).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        assert torch.isfinite(model.weight).all()
    torch.testing.assert_close(model.weight.detach(), weight - 0.5)


def test_without_momentum_and_for_frozen_weights_there_is_no_buffer() -> None:
    frozen, free = nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 1)
    model = nn.Sequential(frozen, free)
    with_momentum = optim.build_optimizer(model, config=OptimizerConfig(momentum=0.9))
    assert set(with_momentum.state) == set(free.parameters())
    assert not optim.build_optimizer(model, config=OptimizerConfig(momentum=0.0)).state
