"""A stop is a flag until somebody acts on it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from kubedet_trainer.errors import PeerFailed, TerminatedSaved
from kubedet_trainer.training.signals import StopRequest


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield StopRequest().listen()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_raises_a_flag_and_nothing_else(stop: StopRequest, number: signal.Signals) -> None:
    assert not stop.requested
    os.kill(os.getpid(), number)
    assert stop.requested
    os.kill(os.getpid(), number)


def test_watched_work_ends_between_two_items(stop: StopRequest) -> None:
    done = []

    def work() -> None:
        for item in stop.watch(range(5)):
            done.append(item)
            if item == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TerminatedSaved):
        work()
    assert done == [0, 1, 2]


def test_who_was_asked_ends_as_stopped_and_who_was_not_as_left_alone(stop: StopRequest) -> None:
    with pytest.raises(
        PeerFailed, match="another worker was asked to stop; the state of iteration 7 is saved"
    ):
        stop.end(7)
    stop.requested = True
    with pytest.raises(TerminatedSaved, match="the state of iteration 7 is saved"):
        stop.end(7)
