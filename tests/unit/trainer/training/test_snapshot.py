"""Snapshots: they share no memory with the training, are as it, and use their memory again."""

from __future__ import annotations

import io

import torch
from torch import nn

from kubedet_trainer.training.snapshot import HostBuffer, take_snapshot
from kubedet_trainer.training.state import TrainState


def test_a_snapshot_does_not_change_with_later_steps() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    state = TrainState(
        model=model, optimizer=optimizer, scaler=torch.amp.GradScaler("cpu", enabled=False), global_batch=4
    )

    def step() -> None:
        optimizer.zero_grad()
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        state.iteration += 1
        state.history.note_evaluation(state.iteration, {"boxAP": 1.0})

    step()
    snapshot = take_snapshot(state, epoch=0)
    weight = model.weight.detach().clone()
    momentum = optimizer.state[model.weight]["momentum_buffer"].clone()
    step()
    assert torch.equal(snapshot.state["model"]["weight"], weight)
    assert torch.equal(snapshot.state["optimizer"]["state"][0]["momentum_buffer"], momentum)
    assert snapshot.state["iteration"] == 1
    assert len(snapshot.state["history"]["evaluations"]) == 1


def test_a_copy_has_the_values_types_and_strides_of_its_tensors() -> None:
    image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    value = {
        "a": [torch.randn(3, 3).t(), 1, None],
        "b": {"half": torch.randn(5).bfloat16(), "flags": torch.tensor([True, False]), "image": image},
        "none": torch.empty(0, 4),
        "count": torch.tensor(7),
        "part": torch.arange(10)[::2],
    }
    copied, _ = HostBuffer().copy(value)
    assert copied["a"][1:] == [1, None]
    pairs = [(copied["a"][0], value["a"][0])]  # type: ignore[index]
    pairs += [(copied["b"][name], value["b"][name]) for name in ("half", "flags", "image")]  # type: ignore[index]
    pairs += [(copied[name], value[name]) for name in ("none", "count", "part")]
    for ours, theirs in pairs:
        assert torch.equal(ours, theirs)
        assert ours.dtype == theirs.dtype
        assert ours.data_ptr() != theirs.data_ptr() or ours.numel() == 0
    assert copied["b"]["image"].is_contiguous(memory_format=torch.channels_last)


def test_what_an_update_changes_may_be_copied_until_then() -> None:
    value = {"weight": torch.ones(3), "buffer": torch.ones(3)}
    copied, copy_rest = HostBuffer().copy(value, later={value["weight"].data_ptr()})
    value["buffer"] += 1  # as a forward pass does
    value["weight"] += 4
    copy_rest()
    assert copied["buffer"].tolist() == [1, 1, 1]
    assert copied["weight"].tolist() == [5, 5, 5]


def test_a_second_copy_uses_the_memory_of_the_first() -> None:
    buffer = HostBuffer()
    value = {"a": torch.ones(3), "b": torch.zeros(2, dtype=torch.int64)}
    buffer.prepare(value)
    first = buffer.copy(value)[0]["a"].data_ptr()
    value["a"] += 1
    again, _ = buffer.copy(value)
    assert again["a"].data_ptr() == first
    assert again["a"].tolist() == [2, 2, 2]
    assert buffer.copy({"a": torch.ones(4)})[0]["a"].tolist() == [1, 1, 1, 1]


def test_a_tensor_is_saved_without_its_neighbours() -> None:
    copied, _ = HostBuffer().copy({"small": torch.ones(2), "large": torch.zeros(1 << 18)})
    file = io.BytesIO()
    torch.save({"small": copied["small"]}, file)
    assert len(file.getvalue()) < 1 << 14
    file.seek(0)
    assert torch.load(file, weights_only=True)["small"].tolist() == [1, 1]
