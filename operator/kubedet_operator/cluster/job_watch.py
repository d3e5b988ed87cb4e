"""Keeps DetectionJobs in the cache: by kopf's events, and by a list of our own once a minute.

kopf reports changes one object at a time. It does not report when its first list is complete, nor which
objects vanished while its watch was interrupted. We therefore list jobs before the first decision and then
every minute. Whatever a list does not show is gone. If only the list shows a change, kopf's watch is behind.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from kubedet_operator.api import names
from kubedet_operator.cluster import errors
from kubedet_operator.cluster.cache import Cache
from kubedet_operator.cluster.client import ALL_JOBS, Cluster
from kubedet_operator.cluster.outages import Outages
from kubedet_operator.telemetry.health import Stream

logger = logging.getLogger(__name__)

LIST_SECONDS = 60.0
"""The longest time for which a change of a job can stay unknown, whatever happens to kopf's watch."""


class JobWatch:
    """Keeps the jobs of some namespaces, or of all (none given), current in the cache while `run` runs."""

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        outages: Outages,
        *,
        namespaces: tuple[str, ...],
        restart_kopf: Callable[[], None],
    ) -> None:
        """`restart_kopf` is called once a missing CRD has been discovered: kopf looks for it at its start."""
        self._cluster = cluster
        self._cache = cache
        self._outages = outages
        self._namespaces = namespaces or (None,)
        self._stream: Stream = (names.PLURAL, None)
        self._restart_kopf = restart_kopf
        self._is_behind = False
        """Whether a list has shown a change that kopf has not reported yet."""
        self.listed = asyncio.Event()
        """Set when all jobs are known."""

    def hear(self, change: str | None, manifest: dict[str, Any]) -> None:
        """Store an event of kopf's watch. The change is None for an object of kopf's own list."""
        self._is_behind = False
        self._outages.succeed(self._stream)
        if change == "DELETED":
            self._cache.drop(names.PLURAL, manifest)
        else:
            self._cache.store(names.PLURAL, manifest)

    async def run(self) -> None:
        """List now and every minute until cancelled."""
        self._is_behind, was_missing = False, False
        while True:
            try:
                missed = await self._list()
                if was_missing or not self.listed.is_set():
                    await self._cluster.require_discovery(ALL_JOBS)
            except errors.OperatorError as error:
                was_missing |= isinstance(error, errors.DefinitionMissing)
                await asyncio.sleep(self._outages.fail(self._stream, error))
                continue
            if was_missing:
                self._restart_kopf()
                was_missing = False
            self._is_behind |= missed and self.listed.is_set()
            if not self._is_behind:
                self._outages.succeed(self._stream)
            self.listed.set()
            await asyncio.sleep(LIST_SECONDS)

    async def _list(self) -> bool:
        """Store all jobs; whether anything was new."""
        has_news = False
        for namespace in self._namespaces:
            known_before, listed = self._cache.uids(), set()
            async for page in self._cluster.list_pages(ALL_JOBS, namespace):
                for manifest in page.items:
                    has_news |= self._cache.store(names.PLURAL, manifest)
                    listed.add(manifest["metadata"]["uid"])
            self._cache.sweep(names.PLURAL, namespace, listed=listed, known_before=known_before)
        return has_news
