"""What the metadata of any object of Kubernetes says: whose it is, and how new; and what its times mean."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from kubedet_operator.api import names

_DIGITS = 18
"""The longest number that is read from a text: it fits 64 bits, as numbers of a status do."""

CLOCK_SECONDS = 60
"""The clocks of machines that keep time differ by less."""


class Owner(NamedTuple):
    """The job or zoo that an object names as its controller."""

    name: str
    uid: str


def read_owner(metadata: Mapping[str, Any]) -> Owner | None:
    """The job that an object belongs to. A name or a label that fits makes nothing a job's child."""
    for reference in metadata.get("ownerReferences") or ():
        is_job = reference.get("kind") == names.KIND and reference.get("apiVersion") == names.API_VERSION
        if is_job and reference.get("controller"):
            return Owner(reference["name"], reference["uid"])
    return None


def read_version(metadata: Mapping[str, Any]) -> int:
    """The resource version as a number: of two versions of one kind in one cluster, the larger is newer.

    Kubernetes allows clients to compare them so (KEP-5504, stable since 1.35, which states what API servers
    have always done: https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions).
    """
    return read_number(metadata.get("resourceVersion")) or 0


def read_number(text: Any) -> int | None:
    """The number that `text` is, if it is one that an operator could have written."""
    return int(text) if str(text).isdecimal() and len(str(text)) <= _DIGITS else None


def end_of_wait(since: datetime, seconds: float, *, now: datetime) -> datetime | None:
    """When a wait of `seconds` from `since` is over; None if it is.

    It is over, too, if `since` is in the future: a clock has been set back, and nobody waits for it.
    """
    end = since + timedelta(seconds=seconds)
    return None if now >= end or is_ahead(since, now=now) else end


def is_ahead(time: datetime, *, now: datetime) -> bool:
    """Whether `time` is so far in the future that no clock that keeps time can have said it."""
    return time > now + timedelta(seconds=CLOCK_SECONDS)
