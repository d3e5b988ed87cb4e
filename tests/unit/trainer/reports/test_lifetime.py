"""Where the time of a run went, over starts, restarts and stops."""

from __future__ import annotations

from typing import Any

import pytest

from kubedet_trainer.reports import lifetime


def start(
    since: str, *, iteration: int = 0, ranks: int = 8, done: int = 0, stopped: bool = False, **seconds: float
) -> dict[str, Any]:
    return {
        "time": f"2026-11-28T{since}Z",
        "since": f"2026-11-28T{since}Z",
        "iteration": iteration,
        "worldSize": ranks,
        "iterations": done,
        "isStopped": stopped,
        "seconds": seconds,
    }


def test_one_start_is_what_it_counted() -> None:
    time = lifetime.account(
        [start("10:00:00", done=50, starting=20, training=60, evaluating=20)], iteration=50, on_gpu=True
    )
    assert time.seconds == {"starting": 20, "training": 60, "evaluating": 20}
    assert (time.goodputPercent, time.gpuSeconds) == (60, 800)


def test_what_nobody_counted_between_two_workers_is_lost() -> None:
    starts = [
        start("10:00:00", done=50, training=100),
        start("10:05:00", iteration=50, ranks=4, done=50, training=200),
    ]
    time = lifetime.account(starts, iteration=100, on_gpu=True)
    assert time.seconds == {"training": 300, "lost": 200}
    assert (time.goodputPercent, time.gpuSeconds) == (60, 100 * 8 + 400 * 4)


def test_a_stop_on_purpose_loses_nothing() -> None:
    starts = [
        start("10:00:00", done=50, training=100, stopped=True),
        start("12:00:00", iteration=50, done=50, training=100),
    ]
    time = lifetime.account(starts, iteration=100, on_gpu=False)
    assert (time.seconds, time.gpuSeconds) == ({"training": 200}, 0)


def test_a_worker_counts_on_across_its_processes() -> None:
    starts = [
        start("10:00:00", done=50, training=100, starting=10),
        start("10:00:00", iteration=40, ranks=4, done=110, training=220, starting=10, restarting=30),
    ]
    time = lifetime.account(starts, iteration=100, on_gpu=True)
    assert time.seconds["restarting"] == 30
    assert time.seconds["starting"] == 10
    assert time.gpuSeconds == 110 * 8 + 150 * 4


def test_iterations_that_were_done_again_are_lost() -> None:
    time = lifetime.account([start("10:00:00", done=125, training=100)], iteration=100, on_gpu=False)
    assert time.seconds == {"training": pytest.approx(80), "lost": pytest.approx(20)}
    assert sum(time.seconds.values()) == pytest.approx(100)


def test_a_run_that_goes_on_from_elsewhere_has_not_lost_what_came_before() -> None:
    time = lifetime.account(
        [start("10:00:00", iteration=500, done=100, training=100)], iteration=600, on_gpu=False
    )
    assert time.seconds == {"training": 100}
