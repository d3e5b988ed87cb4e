"""Which writes a watch keeps back."""

from __future__ import annotations

from typing import Any

import pytest

from kubedet_operator.cluster.echoes import OVERDUE_SECONDS, Echoes


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def at(version: int, namespace: str = "ours") -> dict[str, Any]:
    return {"namespace": namespace, "resourceVersion": str(version)}


@pytest.fixture
def time() -> Time:
    return Time()


def test_a_write_is_overdue_until_the_watch_shows_it_or_a_later_one(time: Time) -> None:
    echoes = Echoes(time)
    echoes.wrote("pods", at(5))
    time.now = OVERDUE_SECONDS
    echoes.wrote("pods", at(6))  # the first one is what counts
    assert not echoes.is_overdue("pods", "ours")
    time.now += 1
    assert echoes.is_overdue("pods", "ours")
    assert echoes.is_overdue("pods", None)
    assert not echoes.is_overdue("pods", "theirs")
    assert not echoes.is_overdue("services", "ours")
    echoes.saw("pods", at(4))
    assert echoes.is_overdue("pods", "ours")
    echoes.saw("pods", at(6))
    assert not echoes.is_overdue("pods", "ours")


def test_an_echo_may_be_faster_than_the_answer(time: Time) -> None:
    echoes = Echoes(time)
    echoes.saw("pods", at(5))
    echoes.wrote("pods", at(5))
    time.now = OVERDUE_SECONDS + 1
    assert not echoes.is_overdue("pods", None)


def test_a_new_list_is_owed_nothing(time: Time) -> None:
    echoes = Echoes(time)
    echoes.wrote("pods", at(5))
    echoes.wrote("pods", at(6, "theirs"))
    time.now = OVERDUE_SECONDS + 1
    echoes.forget("pods", "ours")
    assert not echoes.is_overdue("pods", "ours")
    assert echoes.is_overdue("pods", "theirs")
    echoes.forget("pods", None)
    assert not echoes.is_overdue("pods", None)
