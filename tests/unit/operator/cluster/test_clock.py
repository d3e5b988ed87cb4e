"""The time of decisions: the API server's, and it never jumps."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from kubedet_operator.cluster.clock import SLEW, TOLERATED_SECONDS, ClusterClock

HOUR = 3600.0
START = 1_000_000_000.0


class Times:
    """The clock of this machine, that of the API server, and steady time."""

    def __init__(self, *, ahead: float = 0.0) -> None:
        self.wall = START + ahead
        self.server = START
        self.steady = 5.0
        self.clock = ClusterClock(wall=lambda: self.wall, steady=lambda: self.steady)

    def answer(self) -> None:
        """The API server answers, with the date as HTTP has it: in whole seconds."""
        self.clock.note(format_datetime(datetime.fromtimestamp(int(self.server), UTC), usegmt=True))

    def wait(self, seconds: float, *, answers: bool = True) -> None:
        """Time goes by in steps of at most ten seconds."""
        while seconds > 0:
            step = min(seconds, 10.0)
            self.wall, self.server, self.steady = self.wall + step, self.server + step, self.steady + step
            seconds -= step
            if answers:
                self.answer()
            self.clock.now()

    def read(self) -> float:
        return self.clock.now().timestamp()


@pytest.mark.parametrize("ahead", [-HOUR, 0.0, HOUR])
def test_the_first_answer_sets_the_clock_whatever_this_machine_says(ahead: float) -> None:
    times = Times(ahead=ahead)
    times.answer()
    assert abs(times.read() - times.server) <= TOLERATED_SECONDS
    times.wait(600)
    assert abs(times.read() - times.server) <= TOLERATED_SECONDS


@pytest.mark.parametrize("jump", [-HOUR, HOUR])
def test_a_jump_of_this_machines_clock_changes_nothing(jump: float) -> None:
    times = Times()
    times.answer()
    before = times.read()
    times.wall += jump
    times.wait(60)
    assert times.read() - before == pytest.approx(60)


@pytest.mark.parametrize("jump", [-HOUR, HOUR])
def test_a_jump_of_the_api_servers_clock_is_followed_by_a_tenth_of_the_time_that_passes(jump: float) -> None:
    times = Times()
    times.answer()
    before = times.read()
    times.server += jump
    times.wait(600)
    passed = times.read() - before
    assert 600 * (1 - SLEW) <= passed <= 600 * (1 + SLEW)
    assert (passed > 600) is (jump > 0)
    times.wait(HOUR / SLEW)
    assert abs(times.read() - times.server) <= TOLERATED_SECONDS


def test_without_answers_time_goes_by_steadily() -> None:
    times = Times()
    before = times.read()
    times.wall += HOUR
    times.wait(60, answers=False)
    assert times.read() - before == pytest.approx(60)


@pytest.mark.parametrize("date", [None, "", "yesterday", "Sun, 99 Foo 2026 99:99:99 GMT"])
def test_an_answer_without_a_date_changes_nothing(date: str | None) -> None:
    times = Times()
    before = times.read()
    times.clock.note(date)
    assert times.read() == before


def test_a_wrong_clock_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    times = Times(ahead=HOUR)
    times.answer()
    times.wait(60)
    (told,) = [record.getMessage() for record in caplog.records]
    assert "3600 s behind this machine's" in told
    times.server += HOUR
    times.wait(60)
    assert len(caplog.records) == 2
