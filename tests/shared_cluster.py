"""What the worlds on one real cluster share: the watches of an operator, and an administrator's client."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Container, Coroutine, Mapping
from typing import Any, Protocol

from kube import Kube
from kubedet_operator.api import names
from kubedet_operator.cluster.cache import Cache, Key
from kubedet_operator.cluster.client import CORE, Cluster
from kubedet_operator.cluster.kopf_operator import Handlers, KopfOperator
from kubedet_operator.cluster.watches import Watches
from kubedet_operator.telemetry.health import Health
from kubedet_operator.telemetry.metrics import Metrics

SECONDS = 60
"""No single step takes longer, however slow the machine is."""


class Resident(Protocol):
    """Whoever lives in a namespace, and wants to know what happens there."""

    told: dict[str, str]
    """Uid -> resource version of jobs and pods, as the watches have told."""
    news: list[tuple[bool, Callable[[Cache], object]]]
    """What they have told and nobody has looked at; and whether it is of the job itself."""


class _Distributor(Cache):
    """Hands what the watches of all namespaces show over to the world of each."""

    def __init__(self) -> None:
        super().__init__(lambda key: None, lambda key: None)
        self.worlds: dict[str, Resident] = {}

    def store_job(self, manifest: Mapping[str, Any]) -> bool:
        is_news = super().store_job(manifest)
        if is_news:
            self._hand_over(manifest, lambda cache: cache.store_job(manifest))
        return is_news

    def store_pod(self, manifest: Mapping[str, Any]) -> None:
        super().store_pod(manifest)
        self._hand_over(manifest, lambda cache: cache.store_pod(manifest))

    def store_service(self, manifest: Mapping[str, Any]) -> None:
        super().store_service(manifest)
        self._hand_over(manifest, lambda cache: cache.store_service(manifest))

    def drop_job(self, key: Key, *, uid: str) -> None:
        super().drop_job(key, uid=uid)
        self._tell_end(key, uid, lambda cache: cache.drop_job(key, uid=uid))

    def drop_pod(self, key: Key, name: str, *, uid: str, version: int | None = None) -> None:
        super().drop_pod(key, name, uid=uid, version=version)
        self._tell_end(key, uid, lambda cache: cache.drop_pod(key, name, uid=uid, version=version))

    def drop_service(self, key: Key, *, uid: str, version: int | None = None) -> None:
        super().drop_service(key, uid=uid, version=version)
        self._tell_end(key, uid, lambda cache: cache.drop_service(key, uid=uid, version=version))

    def _hand_over(self, manifest: Mapping[str, Any], news: Callable[[Cache], object]) -> None:
        metadata = manifest["metadata"]
        if world := self.worlds.get(metadata["namespace"]):
            if manifest["kind"] != "Service":
                world.told[metadata["uid"]] = metadata["resourceVersion"]
            world.news.append((manifest["kind"] == names.KIND, news))

    def _tell_end(self, key: Key, uid: str, news: Callable[[Cache], object]) -> None:
        if world := self.worlds.get(key[0]):
            world.told.pop(uid, None)
            world.news.append((False, news))


class _ErrorLog(logging.Handler):
    """What the operators log as errors, with tracebacks. pytest would show them for another test."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class SharedCluster:
    """What all worlds share: an event loop in a thread, with the watches and an administrator's client."""

    def __init__(self, kube: Kube) -> None:
        self.kube = kube
        self.distributor = _Distributor()
        self.errors = _ErrorLog()
        self._listed = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="shared_cluster")

    def __enter__(self) -> SharedCluster:
        logging.getLogger("kubedet_operator").addHandler(self.errors)
        self._thread.start()
        assert self._listed.wait(SECONDS), "the cluster cannot be watched"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._kopf.stop)
        self._thread.join()
        logging.getLogger("kubedet_operator").removeHandler(self.errors)

    def call(self, work: Coroutine[Any, Any, Any], *, seconds: float = SECONDS) -> Any:
        """The result of `work`, which is done in the loop; to be called from other threads."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        cluster = Cluster(Metrics())
        watches = Watches(cluster, self.distributor, Health(), namespaces=(), restart_kopf=lambda: None)
        tasks: list[asyncio.Task[None]] = []

        async def start() -> None:
            tasks.append(asyncio.create_task(watches.run()))
            tasks.append(asyncio.create_task(self._await_list(watches)))

        async def end() -> None:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        handlers = Handlers(
            login=cluster.credentials, start=start, end=end, hear=watches.hear, complaint=lambda: None
        )
        self._kopf = KopfOperator(handlers, namespaces=(), health_port=None)
        await self._kopf.run()
        await cluster.close()
        await self.kube.close()

    async def _await_list(self, watches: Watches) -> None:
        await watches.listed.wait()
        self._listed.set()


async def empty(kube: Kube, namespaces: Container[str]) -> None:
    """Return once the cluster has collected the children of jobs that are gone; the nodes end their pods."""

    async def look() -> bool:
        found = []
        for plural in ("pods", "services"):
            listed = await kube.ask("GET", f"/{CORE}/{plural}?labelSelector={names.children_selector()}")
            children = [item["metadata"] for item in listed["items"]]
            found += [child for child in children if child["namespace"] in namespaces]
        for child in found:
            if "deletionTimestamp" in child:
                path = f"/{CORE}/namespaces/{child['namespace']}/pods/{child['name']}"
                await kube.ask("DELETE", path, {"gracePeriodSeconds": 0}, missing_ok=True)
        return not found

    await kube.wait_for(look)
