"""What a resume needs: state in and out, seeds that belong to chunks."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from kubedet_trainer.training.state import TrainState, chunk_seed


def _state(*, global_batch: int = 4) -> TrainState:
    model = nn.Linear(2, 1)
    return TrainState(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        global_batch=global_batch,
    )


def _step(state: TrainState) -> None:
    state.optimizer.zero_grad()
    state.model(torch.ones(1, 2)).sum().backward()
    state.optimizer.step()
    state.iteration += 1


def test_a_state_that_went_through_a_file_goes_on_as_if_it_had_not() -> None:
    straight = _state()
    for _ in range(2):
        _step(straight)
    straight.history.note_evaluation(2, {"boxAP": 10.0})
    file = io.BytesIO()
    torch.save(straight.state_dict(), file)
    file.seek(0)
    resumed = _state()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.iteration == 2
    assert resumed.history == straight.history
    assert resumed.history.was_evaluated(2)
    assert not resumed.history.was_evaluated(1)
    for state in (straight, resumed):
        _step(state)
    torch.testing.assert_close(resumed.model.state_dict(), straight.model.state_dict(), rtol=0, atol=0)


def test_with_another_global_batch_it_goes_on_after_as_many_images() -> None:
    saved = _state(global_batch=16)
    saved.iteration = 90
    resumed = _state(global_batch=24)
    resumed.load_state_dict(saved.state_dict())
    assert resumed.iteration == 60


def test_the_optimiser_goes_on_by_the_recipe_of_the_run_and_not_by_that_of_the_state() -> None:
    saved, resumed = _state(), _state()
    _step(saved)
    saved.optimizer.param_groups[0].update(weight_decay=0.5, momentum=0.5, fused=False)
    resumed.load_state_dict(saved.state_dict())
    [group] = resumed.optimizer.param_groups
    assert (group["weight_decay"], group["momentum"], group["fused"]) == (0, 0.9, True)
    for own, other in zip(resumed.model.parameters(), saved.model.parameters(), strict=True):
        momenta = (state.optimizer.state[key] for state, key in ((resumed, own), (saved, other)))
        assert torch.equal(*(kept["momentum_buffer"] for kept in momenta))


@pytest.mark.parametrize(("before", "then"), [(False, True), (True, False), (True, True)])
def test_a_run_in_another_precision_goes_on_from_a_state(before: bool, then: bool) -> None:
    saved, resumed = _state(), _state()
    saved.scaler = torch.amp.GradScaler("cpu", enabled=before, init_scale=8.0)
    resumed.scaler = torch.amp.GradScaler("cpu", enabled=then, init_scale=4.0)
    _step(saved)
    resumed.load_state_dict(saved.state_dict())
    assert resumed.iteration == 1
    assert resumed.scaler.get_scale() == (8.0 if before and then else 4.0 if then else 1.0)


def test_every_chunk_has_a_seed_of_its_own_that_never_changes() -> None:
    seeds = {chunk_seed(seed, iteration=i, chunk=c) for seed in range(3) for i in range(20) for c in range(8)}
    assert len(seeds) == 3 * 20 * 8
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert chunk_seed(0, iteration=1, chunk=2) == 603432347784401458
