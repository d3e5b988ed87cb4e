"""Times as both halves and the Kubernetes API write them: RFC 3339, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

_YEARS = range(1970, 9000)
"""Times of other years are no times: adding to them could overflow."""


def format_time(moment: datetime, *, timespec: str = "seconds") -> str:
    """An aware datetime as text, ``2026-03-01T12:00:00Z``; `timespec` is that of `datetime.isoformat`."""
    return moment.astimezone(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def format_unix_time(seconds: float, *, timespec: str = "seconds") -> str:
    """A UNIX time as text."""
    return format_time(datetime.fromtimestamp(seconds, UTC), timespec=timespec)


def format_now(*, timespec: str = "seconds") -> str:
    """This moment as text."""
    return format_time(datetime.now(UTC), timespec=timespec)


def parse_time(text: str) -> datetime:
    """The aware datetime that `format_time` or the Kubernetes API wrote; without a zone, it is UTC.

    Raises:
        ValueError: the text is no time.
    """
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def read_time(text: Any) -> datetime | None:
    """The aware datetime of an RFC 3339 text, whoever wrote it; None if it cannot be reckoned with."""
    try:
        time = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return time if time.tzinfo and time.year in _YEARS else None
