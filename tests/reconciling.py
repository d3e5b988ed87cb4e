"""A reconciler with an API server in memory that fails as told."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

import builders
from kubedet_operator.cluster import errors
from kubedet_operator.cluster.cache import Cache, Key
from kubedet_operator.cluster.client import Cluster
from kubedet_operator.cluster.events import Events, Occurrence
from kubedet_operator.control.reconcile import Reconciler
from kubedet_operator.control.workqueue import WorkQueue
from kubedet_operator.settings import OperatorSettings
from kubedet_operator.telemetry.health import Health
from kubedet_operator.telemetry.metrics import Metrics

KEY = ("default", "demo")
NOW = datetime(2026, 1, 1, 1, tzinfo=UTC)


class FakeCluster:
    """Records what is asked of it, and answers or fails as told."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.failures: dict[str, errors.OperatorError] = {}
        self._version = 100

    async def write_status(self, job: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, Any]:
        self._ask("status", job["metadata"]["name"])
        return {**job, "metadata": {**job["metadata"], **self._next()}, "status": dict(status)}

    async def ensure(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        self._ask("ensure", manifest["metadata"]["name"])
        created = {"uid": f"uid-{self._version}", "creationTimestamp": "2026-01-01T01:00:00Z"}
        return {**manifest, "metadata": {**manifest["metadata"], **created, **self._next()}}

    async def delete(self, plural: str, namespace: str, name: str, *, uid: str, force: bool = False) -> None:
        self._ask("delete", name)

    async def read_job(self, namespace: str, name: str) -> dict[str, Any]:
        self._ask("read", name)
        return make_job(version=500)

    def _ask(self, verb: str, name: str) -> None:
        self.asked.append((verb, name))
        if verb in self.failures:
            raise self.failures[verb]

    def _next(self) -> dict[str, str]:
        self._version += 1
        return {"resourceVersion": str(self._version)}


def make_job(*, version: int = 1) -> dict[str, Any]:
    manifest = builders.make_manifest()
    manifest["metadata"] |= {
        "uid": builders.UID,
        "generation": 1,
        "resourceVersion": str(version),
        "creationTimestamp": "2026-01-01T00:59:00Z",
    }
    return manifest


class RecordedEvents(Events):
    """Keeps the reasons of what is recorded."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def record(self, job: Mapping[str, Any], occurrence: Occurrence) -> None:
        self.reasons.append(occurrence.reason)


class World:
    """A reconciler with its surroundings."""

    def __init__(self) -> None:
        self.cluster = FakeCluster()
        self.queue: WorkQueue[Key] = WorkQueue()
        self.cache = Cache(self.queue.add, self.queue.add)
        self.metrics = Metrics()
        self.events = RecordedEvents()
        self.reconciler = Reconciler(
            cast(Cluster, self.cluster),
            self.cache,
            self.queue,
            metrics=self.metrics,
            health=Health(),
            settings=OperatorSettings(service_account="default/kubedet-operator"),
            events=self.events,
            clock=lambda: NOW,
        )

    async def settle(self) -> None:
        """Reconcile until the queue is empty."""
        while len(self.queue):
            key = await self.queue.get()
            await self.reconciler.reconcile(key)
            self.queue.done(key)

    def service_uid(self) -> str:
        return str(next(iter(self.cache._services.values())).uid)

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0
