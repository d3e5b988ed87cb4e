"""The list and the watch of children on a real API server: its chunks and its renewals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import builders
from kubedet_operator.api import schema
from kubedet_operator.children.service import build_service
from kubedet_operator.cluster import client as client_module
from kubedet_operator.cluster.cache import Cache
from kubedet_operator.cluster.client import SERVICES, Cluster
from kubedet_operator.cluster.list_watch import ListWatch, Pace
from kubedet_operator.cluster.outages import Outages
from kubedet_operator.telemetry.health import Health
from kubedet_operator.telemetry.metrics import Metrics
from throwaway import await_definition

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

NAMESPACE = "kubedet-integration"


class Following:
    """A list-and-watch of Services with the operator's rights, which are renewed every second."""

    def __init__(self) -> None:
        self.cache = Cache(lambda _: None, lambda _: None)
        self.lists = 0
        self._metrics = Metrics()
        self._cluster = Cluster(self._metrics)
        self.follower = ListWatch(
            self._cluster,
            self.cache,
            Outages(Health()),
            collection=SERVICES,
            namespace=NAMESPACE,
            listed=self._count,
            pace=Pace(renewal_seconds=1, silence_seconds=30),
        )
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self.follower.run())

    def _count(self) -> None:
        self.lists += 1

    def known(self) -> set[str]:
        jobs = (f"listed-{index}" for index in range(9))
        return {job for job in jobs if self.cache.service((NAMESPACE, job)) is not None}

    def watches(self) -> float:
        labels = {"verb": "watch", "resource": "services", "code": "200"}
        name = "kubedet_operator_api_requests_total"
        return self._metrics.registry.get_sample_value(name, labels) or 0.0

    async def until(self, look: Callable[[], Any]) -> None:
        while not look():
            assert self._task is not None
            assert not self._task.done(), self._task
            await asyncio.sleep(0.05)

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._cluster.close()


@pytest.fixture
async def following(
    cluster: Any, account: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Following]:
    kubeconfig = str(account("kubedet-operator"))
    monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", kubeconfig)
    cluster.kubectl("apply", "--server-side", "-f", "-", stdin=schema.dump_crd())
    await_definition(cluster.kubectl)
    cluster.apply(*(owner(index) for index in range(4)))
    cluster.apply(*(service(cluster, index) for index in range(3)))
    following = Following()
    yield following
    await following.end()
    jobs = (f"listed-{index}" for index in range(4))
    cluster.kubectl("delete", "dj", "-n", NAMESPACE, *jobs, "--ignore-not-found")


def owner(index: int) -> dict[str, Any]:
    """A job that no operator of ours looks after."""
    name = f"listed-{index}"
    return builders.make_manifest(name=name, namespace=NAMESPACE, managedBy="example.com/nobody")


def service(cluster: Any, index: int) -> dict[str, Any]:
    """The Service of such a job."""
    uid = cluster.get("dj", f"listed-{index}")["metadata"]["uid"]
    return build_service(builders.make_job(name=f"listed-{index}", namespace=NAMESPACE, uid=uid))


async def test_a_list_in_chunks_and_watches_that_are_renewed_show_everything(
    following: Following, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "CHUNK", 2)
    following.start()
    await following.until(lambda: following.lists)
    assert following.known() == {"listed-0", "listed-1", "listed-2"}
    await following.until(lambda: following.watches() >= 3)
    await asyncio.to_thread(cluster.apply, service(cluster, 3))
    await following.until(lambda: "listed-3" in following.known())
    watches = following.watches()
    await following.until(lambda: following.watches() > watches)
    await asyncio.to_thread(cluster.kubectl, "delete", "service", "listed-0-workers", "-n", NAMESPACE)
    await following.until(lambda: following.known() == {"listed-1", "listed-2", "listed-3"})
    assert following.lists == 1
