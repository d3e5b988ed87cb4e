"""Own writes that the watches have not shown yet.

A watch can go silent without an end: the connection stands, and nothing comes any more until the watch is
renewed. What the operator writes itself tells earlier: it comes back as an event within a fraction of a
second, or the watch is dead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from kubedet_operator.decision.facts import read_version

OVERDUE_SECONDS = 10.0
"""A write that a watch has not shown for so long never comes: the API server delivers within a second."""

Place = tuple[str, str]
"""Plural and namespace."""


class Echoes:
    """The oldest write of each kind and namespace that has no echo, and when it was made."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[Place, int] = {}
        self._awaited: dict[Place, tuple[int, float]] = {}

    def wrote(self, plural: str, metadata: Mapping[str, Any]) -> None:
        """Expect the watch to show an object as it is in the answer to a write of ours."""
        place, version = (plural, metadata["namespace"]), read_version(metadata)
        if version > self._seen.get(place, 0):
            self._awaited.setdefault(place, (version, self._clock()))

    def saw(self, plural: str, metadata: Mapping[str, Any]) -> None:
        """Note an object that the watch has shown: whatever was written before it has been shown as well."""
        place, version = (plural, metadata["namespace"]), read_version(metadata)
        self._seen[place] = max(self._seen.get(place, 0), version)
        if place in self._awaited and self._awaited[place][0] <= version:
            del self._awaited[place]

    def is_overdue(self, plural: str, namespace: str | None) -> bool:
        """Whether the watch of a namespace, or of all, keeps back what was written long ago."""
        latest = self._clock() - OVERDUE_SECONDS
        return any(
            since < latest and place[0] == plural and namespace in (None, place[1])
            for place, (_, since) in self._awaited.items()
        )

    def forget(self, plural: str, namespace: str | None) -> None:
        """Expect nothing of a watch that begins anew: the list before it shows everything."""
        for place in list(self._awaited):
            if place[0] == plural and namespace in (None, place[1]):
                del self._awaited[place]
