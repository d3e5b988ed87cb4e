"""Lists and then watches zoos and the children of jobs, to keep the cache as the cluster is.

This works like client-go's reflector: list in chunks, then watch from the list's resource version. After a
watch has ended or broken, the next one resumes from the newest version seen. If the API server no longer
knows that version, or the watch was silent, start with a list again. Whatever a list does not show is gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from kubedet_operator.cluster import errors
from kubedet_operator.cluster.client import Cluster, Collection, Event
from kubedet_operator.cluster.outages import Outages

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Times of a watch."""

    renewal_seconds: int = 5
    """The API server ends each watch after this time, and the next one resumes: none is silent for long."""
    silence_seconds: float = 9
    """A watch that has not ended by then is dead, although its connection is open."""
    resumption_seconds: float = 0.25
    """The pause before a watch resumes whose connection broke, and before a list repeats."""


class Store(Protocol):
    """Where what is heard is kept."""

    def store(self, plural: str, manifest: Mapping[str, Any]) -> object:
        """Take in an object. One that cannot be read is passed over."""

    def drop(self, plural: str, manifest: Mapping[str, Any]) -> None:
        """Forget an object, which is gone or has left the selector, likewise."""

    def uids(self) -> set[str]:
        """The uids of everything that is known."""

    def sweep(
        self,
        plural: str,
        namespace: str | None,
        *,
        listed: set[str],
        known_before: set[str],
        version: str | None = None,
    ) -> None:
        """Forget what was known before a complete list of a namespace, or of all, and is not in it."""


class ListWatch:
    """Keeps the objects of one collection and namespace current in the cache while `run` runs."""

    def __init__(
        self,
        cluster: Cluster,
        cache: Store,
        outages: Outages,
        *,
        collection: Collection,
        namespace: str | None,
        listed: Callable[[], None],
        pace: Pace = Pace(),
    ) -> None:
        """`listed` is called after every list, when the cache holds all of it."""
        self._cluster = cluster
        self._cache = cache
        self._outages = outages
        self._collection = collection
        self._namespace = namespace
        self._stream = (collection.plural, namespace)
        self._listed = listed
        self._pace = pace
        self._version: str | None = None
        """The newest resource version seen; None: start with a list."""

    async def run(self) -> None:
        """List and watch until cancelled."""
        self._version = None
        while True:
            try:
                if self._version is None:
                    await self._list()
                else:
                    await self._watch(self._version)
            except errors.Gone as gone:
                logger.debug("%s", gone)
                self._version = None
                await asyncio.sleep(self._pace.resumption_seconds)
            except errors.OperatorError as error:
                await asyncio.sleep(self._outages.fail(self._stream, error))

    async def _list(self) -> None:
        known_before, listed, version = self._cache.uids(), set(), None
        async for page in self._cluster.list_pages(self._collection, self._namespace):
            for item in page.items:
                self._cache.store(self._collection.plural, item)
                listed.add(item["metadata"]["uid"])
            version = page.version
        self._cache.sweep(
            self._collection.plural,
            self._namespace,
            listed=listed,
            known_before=known_before,
            version=version,
        )
        self._version = version
        self._outages.succeed(self._stream)
        self._listed()

    async def _watch(self, version: str) -> None:
        is_accepted = False
        watch = self._cluster.watch(
            self._collection, self._namespace, version=version, seconds=self._pace.renewal_seconds
        )
        try:
            async with asyncio.timeout(self._pace.silence_seconds), watch as events:
                is_accepted = True
                self._outages.succeed(self._stream)
                async for event in events:
                    self._take(event)
        except TimeoutError:
            logger.warning("the watch of %s was silent; it starts again with a list", self._stream[0])
            self._version = None
        except errors.ApiUnreachable:
            if not is_accepted:
                raise
            await asyncio.sleep(self._pace.resumption_seconds)
        else:
            self._outages.succeed(self._stream)

    def _take(self, event: Event) -> None:
        manifest = event["object"]
        self._version = manifest["metadata"]["resourceVersion"]
        self._outages.succeed(self._stream)
        if event["type"] == "DELETED":
            self._cache.drop(self._collection.plural, manifest)
        elif event["type"] != "BOOKMARK":
            self._cache.store(self._collection.plural, manifest)
