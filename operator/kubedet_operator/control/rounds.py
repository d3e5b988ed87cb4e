"""What the rounds of jobs and of zoos have in common."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from kubedet_operator.cluster import errors
from kubedet_operator.cluster.cache import Key

Parsed = TypeVar("Parsed")


class ParsedSpecs(Generic[Parsed]):
    """Specs as they were read, once for each generation of an object while something goes on with it."""

    def __init__(self, parse: Callable[[Mapping[str, Any]], Parsed], *, size: int) -> None:
        """Keep the `size` specs that were asked for last; any other can be read again by `parse`."""
        self._parse = parse
        self._size = size
        self._known: OrderedDict[Key, tuple[tuple[str, int], Parsed]] = OrderedDict()

    def read(self, key: Key, manifest: Mapping[str, Any]) -> Parsed:
        """The spec of `manifest`, the object of this key."""
        version = (manifest["metadata"]["uid"], manifest["metadata"]["generation"])
        known = self._known.pop(key, None)
        if known is None or known[0] != version:
            known = version, self._parse(manifest)
        self._known[key] = known
        if len(self._known) > self._size:
            self._known.popitem(last=False)
        return known[1]

    def forget(self, key: Key) -> None:
        """Drop what is known of an object that is gone."""
        self._known.pop(key, None)


async def carry_out_all(actions: Iterable[Awaitable[None]]) -> list[BaseException]:
    """Carry out all actions at once; returns the errors of those that failed, rejections last."""
    outcomes = await asyncio.gather(*actions, return_exceptions=True)
    failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    return sorted(failures, key=lambda failure: isinstance(failure, errors.Rejected))


def find_rejection(failures: Iterable[BaseException]) -> str | None:
    """What the API server said when it refused a child; None if it refused none."""
    return next((str(failure) for failure in failures if isinstance(failure, errors.Rejected)), None)
