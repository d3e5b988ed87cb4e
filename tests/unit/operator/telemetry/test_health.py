"""What the watches' signs of life mean for metrics and the liveness probe."""

from __future__ import annotations

import pytest

from kubedet_operator.telemetry.health import (
    LONGEST_SILENCE_SECONDS,
    LONGEST_WORK_SECONDS,
    MOST_ENDS,
    PROGRESS,
    Health,
)

PODS = ("pods", "quiet")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(clock=clock)


def test_the_oldest_watch_of_a_resource_is_what_counts(health: Health, clock: Clock) -> None:
    health.note_current(PODS)
    clock.now = 30
    health.note_current(("pods", "busy"))
    health.note_current(("services", None))
    clock.now = 40
    assert health.ages() == {"pods": 40, "services": 10}


def test_a_watch_that_gives_no_sign_is_complained_about(health: Health, clock: Clock) -> None:
    health.note_current(PODS)
    clock.now = LONGEST_SILENCE_SECONDS
    assert health.complaint() is None
    clock.now += 1
    assert health.complaint() == f"the watch of pods has been silent for {clock.now:.0f} s"


def test_a_watch_that_fails_ages_but_no_restart_would_help(health: Health, clock: Clock) -> None:
    health.note_current(PODS)
    clock.now = LONGEST_SILENCE_SECONDS + 1
    health.note_failure(PODS)
    assert health.complaint() is None
    assert health.ages() == {"pods": clock.now}


def test_nothing_is_expected_while_no_watch_is_supposed_to_run(health: Health, clock: Clock) -> None:
    health.note_current(PODS)
    health.ready = True
    health.forget()
    clock.now = 1000
    assert health.complaint() is None
    assert health.ages() == {}
    assert not health.ready


def test_a_task_with_work_that_finishes_none_is_complained_about(health: Health, clock: Clock) -> None:
    health.expect_work(PROGRESS)
    clock.now = LONGEST_WORK_SECONDS
    health.expect_work(PROGRESS)
    clock.now += 1
    assert health.complaint() == f"progress has work to do and has finished none for {clock.now:.0f} s"
    health.note_work(PROGRESS)
    assert health.complaint() is None
    health.rest(PROGRESS)
    clock.now += LONGEST_WORK_SECONDS + 1
    assert health.complaint() is None


def test_a_task_that_ends_again_and_again_is_complained_about(health: Health, clock: Clock) -> None:
    health.note_end(PROGRESS, MOST_ENDS - 1)
    assert health.complaint() is None
    health.note_end(PROGRESS, MOST_ENDS)
    assert health.complaint() == "progress has ended 5 times in a row"
    clock.now = 600
    assert health.complaint() is None
