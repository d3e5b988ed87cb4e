"""Times as text: what the API server takes, and what comes back from it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from kubedet_trainer.contract.times import format_now, format_time, format_unix_time, parse_time

MOMENT = datetime(2026, 3, 1, 12, 0, 7, 999_000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("timespec", "text"),
    [
        ("seconds", "2026-03-01T12:00:07Z"),
        ("milliseconds", "2026-03-01T12:00:07.999Z"),
        ("microseconds", "2026-03-01T12:00:07.999000Z"),
    ],
)
def test_a_time_is_cut_to_its_unit_and_never_rounded_into_the_future(timespec: str, text: str) -> None:
    assert format_time(MOMENT, timespec=timespec) == text
    assert format_unix_time(MOMENT.timestamp(), timespec=timespec) == text


def test_a_time_of_another_zone_is_written_in_utc() -> None:
    there = MOMENT.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert format_time(there) == "2026-03-01T12:00:07Z"


@pytest.mark.parametrize("text", ["2026-03-01T12:00:07Z", "2026-03-01T17:30:07+05:30"])
def test_what_is_read_is_the_moment_that_was_written(text: str) -> None:
    assert parse_time(text) == MOMENT.replace(microsecond=0)


def test_now_is_no_earlier_than_a_moment_ago() -> None:
    before = datetime.now(UTC)
    assert before <= parse_time(format_now(timespec="microseconds")) <= datetime.now(UTC)
