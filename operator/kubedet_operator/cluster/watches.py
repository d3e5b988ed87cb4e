"""All watches of the process: jobs first, then their children and the zoos that own jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from kubedet_operator.cluster.cache import Cache
from kubedet_operator.cluster.client import ALL_ZOOS, PODS, SERVICES, Cluster
from kubedet_operator.cluster.job_watch import JobWatch
from kubedet_operator.cluster.list_watch import ListWatch
from kubedet_operator.cluster.outages import Outages
from kubedet_operator.telemetry.health import Health, Stream


class Watches:
    """Keeps the cache as the cluster is while `run` runs."""

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        health: Health,
        *,
        namespaces: tuple[str, ...],
        restart_kopf: Callable[[], None],
    ) -> None:
        """Without namespaces, all are watched. `restart_kopf` is called once a missing CRD has appeared."""
        self._health = health
        self._outages = Outages(health)
        self._jobs = JobWatch(cluster, cache, self._outages, namespaces=namespaces, restart_kopf=restart_kopf)
        self._children: dict[Stream, ListWatch] = {
            (collection.plural, namespace): ListWatch(
                cluster,
                cache,
                self._outages,
                collection=collection,
                namespace=namespace,
                listed=partial(self._note_list, (collection.plural, namespace)),
            )
            for collection in (PODS, SERVICES)
            for namespace in namespaces or (None,)
        }
        # A zoo is decided about when all jobs are known. No job has to wait for the zoos.
        self._zoos = [
            ListWatch(
                cluster,
                cache.zoos,
                self._outages,
                collection=ALL_ZOOS,
                namespace=namespace,
                listed=lambda: None,
            )
            for namespace in namespaces or (None,)
        ]
        self._missing: set[Stream] = set()
        """Streams of children that have not been listed since `run` started."""
        self.listed = asyncio.Event()
        """Set when jobs and children are known, and again after every later list of children."""

    def hear(self, change: str | None, job: dict[str, Any]) -> None:
        """Store an event of kopf's watch of jobs. The change is None for an object of kopf's own list."""
        self._jobs.hear(change, job)

    async def run(self) -> None:
        """List jobs and then their children, and keep both current until cancelled."""
        self._missing = set(self._children)
        try:
            async with asyncio.TaskGroup() as watches:
                watches.create_task(self._jobs.run())
                # If jobs cannot be listed, the log should say so once, not again for their children.
                await self._jobs.listed.wait()
                for watch in (*self._children.values(), *self._zoos):
                    watches.create_task(watch.run())
        finally:
            self.listed.clear()
            self._jobs.listed.clear()
            self._outages.forget()
            self._health.forget()

    def _note_list(self, stream: Stream) -> None:
        self._missing.discard(stream)
        if not self._missing:
            self._health.ready = True
            self.listed.set()
