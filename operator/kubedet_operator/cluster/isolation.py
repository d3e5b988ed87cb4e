"""Keeps what is wrong with one object from those that come by the same list or watch."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)

REMEMBERED = 10_000
"""Objects that are not named again in the log."""


class Isolation:
    """Passes over objects that cannot be read, and tells of each."""

    def __init__(self, unreadable: Callable[[str], None] = lambda _: None) -> None:
        """`unreadable` is called with the plural of the kind, every time."""
        self._unreadable = unreadable
        self._told: OrderedDict[str, None] = OrderedDict()

    @contextmanager
    def __call__(self, plural: str, manifest: Mapping[str, Any]) -> Iterator[None]:
        """Read `manifest` within the block. Whatever that raises is logged once and counted."""
        try:
            yield
        except Exception as error:
            self._unreadable(plural)
            metadata = manifest.get("metadata") or {}
            uid = str(metadata.get("uid"))
            if uid in self._told:
                return
            whose = f"{metadata.get('namespace')}/{metadata.get('name')}"
            logger.error("%s %s cannot be read and is ignored: %r", plural, whose, error)
            self._told[uid] = None
            if len(self._told) > REMEMBERED:
                self._told.popitem(last=False)
