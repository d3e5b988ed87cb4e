"""When the world is known: jobs first, then their children, and all of them again after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

import builders
from api_server import ApiServer
from kubedet_operator.api import names
from kubedet_operator.cluster.cache import Cache
from kubedet_operator.cluster.client import Cluster
from kubedet_operator.cluster.watches import Watches
from kubedet_operator.telemetry.health import Health
from zoo_simulation import make_zoo


class Running:
    """Watches of all namespaces, which can be restarted."""

    def __init__(self, client: Cluster) -> None:
        self.health = Health()
        self.cache = Cache(lambda _: None, lambda _: None)
        self.watches = Watches(client, self.cache, self.health, namespaces=(), restart_kopf=lambda: None)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self.watches.run())

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


@pytest.fixture
async def running(client: Cluster) -> AsyncIterator[Running]:
    running = Running(client)
    yield running
    await running.end()


async def test_children_are_not_asked_for_while_jobs_cannot_be_listed(
    running: Running, server: ApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.knows_jobs = False
    running.start()
    while "manifests/crds" not in caplog.text:
        await asyncio.sleep(0.01)
    assert not server.asked("pods", watch=False)
    assert not running.health.ready
    server.knows_jobs = True
    await running.watches.listed.wait()
    assert running.health.ready


async def test_zoos_are_known_as_the_api_server_has_them(running: Running, server: ApiServer) -> None:
    zoo = make_zoo()
    zoo["metadata"] |= {"uid": "zoo-1", "generation": 1}
    server.put(names.ZOO_PLURAL, zoo)
    running.start()
    key = ("default", "zoo")
    while (known := running.cache.zoos.zoo(key)) is None:
        await asyncio.sleep(0.01)
    assert known["spec"] == zoo["spec"]
    server.put(names.ZOO_PLURAL, {**zoo, "status": {"phase": "Running"}})
    while (running.cache.zoos.zoo(key) or {})["status"] != {"phase": "Running"}:
        await asyncio.sleep(0.01)
    server.remove(names.ZOO_PLURAL, "zoo-1")
    while running.cache.zoos.zoo(key) is not None:
        await asyncio.sleep(0.01)


async def test_jobs_do_not_wait_for_the_definition_of_zoos(
    running: Running, server: ApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.knows_zoos = False
    running.start()
    await running.watches.listed.wait()
    assert running.health.ready
    while "knows no ModelZoos: apply manifests/crds" not in caplog.text:
        await asyncio.sleep(0.01)
    zoo = make_zoo()
    zoo["metadata"] |= {"uid": "zoo-1", "generation": 1}
    server.put(names.ZOO_PLURAL, zoo)
    server.knows_zoos = True
    while running.cache.zoos.zoo(("default", "zoo")) is None:
        await asyncio.sleep(0.01)


async def test_after_a_restart_everything_is_listed_again(running: Running, server: ApiServer) -> None:
    server.put("pods", builders.make_pod(uid="first"))
    running.start()
    await running.watches.listed.wait()
    await running.end()
    assert not running.health.ready
    assert not running.watches.listed.is_set()
    server.remove("pods", "first", unseen=True)
    running.start()
    await running.watches.listed.wait()
    assert running.health.ready
    assert not running.cache.pods(("default", "demo"))
    assert [len(server.asked(plural, watch=False)) for plural in ("pods", "services", names.PLURAL)] == [
        2,
        2,
        2,
    ]
