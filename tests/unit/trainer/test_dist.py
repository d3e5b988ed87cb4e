"""The ranks of a run: alone all works without a process group; errors of lost peers are told apart."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kubedet_trainer import dist
from kubedet_trainer.errors import PeerFailed


def test_alone_every_exchange_is_with_oneself() -> None:
    world = dist.initialise(torch.device("cpu"))
    assert (world.rank, world.size, world.device.type) == (0, 1, "cpu")
    assert (dist.rank(), dist.world_size()) == (0, 1)
    assert dist.gather({"a": 1}) == [{"a": 1}]
    assert dist.broadcast("value", waiting=pytest.fail) == "value"
    assert dist.maximum([1.0, -2.0]) == [1.0, -2.0]
    dist.barrier(waiting=pytest.fail)
    model = nn.Linear(1, 1)
    assert dist.wrap(model) is model
    with dist.accumulating(model, last=False):
        pass
    dist.shut_down()


def test_an_agreement_answers_one_call_later() -> None:
    agreement = dist.Agreement(2)
    assert agreement.exchange([1, 0]) == [0, 0]
    assert agreement.exchange([0, 5]) == [1, 0]
    assert agreement.exchange([0, 0, 7, 8]) == [0, 5]
    assert agreement.exchange([0, 0]) == [0, 0, 7, 8], "some iterations exchange more"
    agreement.finish()


@pytest.mark.parametrize(
    "message",
    [
        "[/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.1]:12345",
        "[enforce fail at tcp/pair.cc] Read error [10.0.0.1]:2: Connection reset by peer",
        "NCCL communicator was aborted on rank 3.",
        "Broken pipe",
    ],
)
def test_what_gloo_and_nccl_say_of_a_lost_peer_becomes_one_error(message: str) -> None:
    def fail() -> None:
        with dist.peer_failures():
            raise RuntimeError(message)

    with pytest.raises(PeerFailed, match="another rank went away"):
        fail()


@pytest.mark.parametrize(
    "message", ["CUDA error: device-side assert triggered", "NCCL error: unhandled cuda error"]
)
def test_other_errors_pass(message: str) -> None:
    def fail() -> None:
        with dist.peer_failures():
            raise RuntimeError(message)

    with pytest.raises(RuntimeError, match=message):
        fail()
