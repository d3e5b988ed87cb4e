"""Which jobs belong to a zoo, and which wait for another job: found by index, never by a search."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kubedet_operator.api import names
from kubedet_operator.decision.facts import source_of
from kubedet_operator.decision.zoo.facts import owner_of

Key = tuple[str, str]
"""Namespace and name of an object."""

_TELLING = ("conditions", "results")
"""Fields of a job's status that matter to others; its progress changes too often."""


def read_relations(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a job's metadata that relates it to its zoo."""
    if owner_of({"metadata": metadata}) is None:
        return {}
    given = metadata.get("annotations") or {}
    notes = {name: text for name, text in given.items() if name.startswith(f"{names.ZOO}-")}
    return {"ownerReferences": metadata["ownerReferences"], "annotations": notes}


class Relations:
    """Indexes over the jobs of the cache, and whom a change of a job concerns besides itself."""

    def __init__(self, zoo_changed: Callable[[Key], None], job_changed: Callable[[Key], None]) -> None:
        """The callbacks get the zoo that owns a changed job, and the jobs that wait for it."""
        self._zoo_changed = zoo_changed
        self._job_changed = job_changed
        self._owned: defaultdict[str, set[Key]] = defaultdict(set)
        self._waiting: defaultdict[Key, set[Key]] = defaultdict(set)

    def owned(self, uid: str) -> set[Key]:
        """The jobs of the zoo with this uid."""
        return self._owned.get(uid, set())

    def note(self, key: Key, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> None:
        """Take in that a job is not as it was; None: it was or is not there."""
        for job, add in ((before, False), (after, True)):
            if job is not None:
                self._index(key, job, add=add)
        if before is not None and after is not None and _essence(before) == _essence(after):
            return
        for zoo in {zoo for job in (before, after) if job is not None for zoo in _zoos(key, job)}:
            self._zoo_changed(zoo)
        for waiting in tuple(self._waiting.get(key, ())):
            self._job_changed(waiting)

    def _index(self, key: Key, job: Mapping[str, Any], *, add: bool) -> None:
        places: list[tuple[defaultdict[Any, set[Key]], Any]] = []
        if (owner := owner_of(job)) is not None:
            places.append((self._owned, owner[0]))
        if (source := source_of(job)) is not None:
            places.append((self._waiting, (key[0], source)))
        for index, place in places:
            if add:
                index[place].add(key)
            else:
                index[place].discard(key)
                if not index[place]:
                    del index[place]


def _zoos(key: Key, job: Mapping[str, Any]) -> Iterator[Key]:
    if (owner := owner_of(job)) is not None:
        yield key[0], owner[1]


def _essence(job: Mapping[str, Any]) -> tuple[Any, ...]:
    metadata, status = job["metadata"], job["status"]
    return (
        metadata["uid"],
        metadata.get("generation"),
        metadata.get("deletionTimestamp"),
        metadata.get("annotations"),
        *(status.get(field) for field in _TELLING),
    )
