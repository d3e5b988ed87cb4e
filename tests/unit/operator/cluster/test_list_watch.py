"""How children get into the cache, and stay as they are in the cluster, whatever becomes of their watches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import builders
from api_server import ApiServer
from kubedet_operator.cluster import client as client_module
from kubedet_operator.cluster.cache import Cache
from kubedet_operator.cluster.client import PODS, Cluster
from kubedet_operator.cluster.list_watch import ListWatch, Pace
from kubedet_operator.cluster.outages import Outages
from kubedet_operator.telemetry.health import Health

KEY = ("default", "demo")
QUICK = Pace(renewal_seconds=1, silence_seconds=0.3, resumption_seconds=0.01)
"""Watches that are renewed every second; one that is made silent is given up before that."""

PATIENT = Pace(renewal_seconds=1, silence_seconds=60, resumption_seconds=0.01)


class Following:
    """A list-and-watch of pods that runs."""

    def __init__(self, server: ApiServer, client: Cluster) -> None:
        self.server = server
        self.cache = Cache(lambda _: None, lambda _: None)
        self.health = Health()
        self.lists = 0
        self._client = client
        self._task: asyncio.Task[None] | None = None

    def start(self, *, namespace: str | None = None, pace: Pace = PATIENT) -> None:
        follower = ListWatch(
            self._client,
            self.cache,
            Outages(self.health),
            collection=PODS,
            namespace=namespace,
            listed=self._count,
            pace=pace,
        )
        self._task = asyncio.create_task(follower.run())

    def _count(self) -> None:
        self.lists += 1

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def known(self) -> set[str]:
        return {pod.uid for pod in self.cache.pods(KEY)}

    async def until(self, look: Callable[[], Any]) -> None:
        """Return once `look` is true, and fail if `run` has ended."""
        while not look():
            assert self._task is not None
            assert not self._task.done(), self._task
            await asyncio.sleep(0.01)


@pytest.fixture
async def following(server: ApiServer, client: Cluster) -> AsyncIterator[Following]:
    following = Following(server, client)
    yield following
    await following.end()


def pod(index: int = 0, *, namespace: str = "default") -> dict[str, Any]:
    return builders.make_pod(index=index, namespace=namespace, uid=f"{namespace}-{index}")


async def test_a_list_comes_in_chunks_of_what_carries_our_label(
    following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "CHUNK", 2)
    for index in range(5):
        following.server.put("pods", pod(index))
    following.start()
    await following.until(lambda: following.lists)
    assert following.known() == {f"default-{index}" for index in range(5)}
    lists = following.server.asked("pods", watch=False)
    assert [query["limit"] for query in lists] == ["2", "2", "2"]
    assert {query["labelSelector"] for query in lists} == {"app.kubernetes.io/managed-by=kubedet-operator"}


async def test_of_one_namespace_only_its_own_objects_are_seen(following: Following) -> None:
    following.server.put("pods", pod())
    following.server.put("pods", pod(namespace="elsewhere"))
    following.start(namespace="default")
    await following.until(lambda: following.lists)
    following.server.put("pods", pod(1, namespace="elsewhere"))
    following.server.put("pods", pod(1))
    await following.until(lambda: len(following.known()) == 2)
    assert not following.cache.pods(("elsewhere", "demo"))


async def test_what_happens_after_the_list_is_heard_of(following: Following) -> None:
    following.start()
    await following.until(lambda: following.lists)
    following.server.put("pods", pod())
    await following.until(following.known)
    following.server.put("pods", {**pod(), "status": {"phase": "Failed"}})
    await following.until(lambda: next(iter(following.cache.pods(KEY))).phase == "Failed")
    following.server.remove("pods", "default-0")
    await following.until(lambda: not following.known())


async def test_a_watch_that_ends_goes_on_where_it_was_and_a_bookmark_counts(following: Following) -> None:
    following.start()
    await following.until(lambda: following.lists)
    following.server.put("services", pod())  # whatever it is: versions move on, the pods' watch tells nothing
    newest = str(following.server._version)
    await following.until(lambda: len(following.server.asked("pods", watch=True)) >= 2)
    assert following.server.asked("pods", watch=True)[1]["resourceVersion"] == newest
    assert following.lists == 1


async def test_a_watch_whose_connection_breaks_goes_on_without_a_list_and_without_a_word(
    following: Following, caplog: pytest.LogCaptureFixture
) -> None:
    following.server.broken_watches = 3
    following.start()
    await following.until(lambda: following.lists)
    for index in range(4):
        following.server.put("pods", pod(index))
    await following.until(lambda: len(following.known()) == 4)
    assert following.lists == 1
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_a_watch_that_is_told_of_forgotten_events_begins_again_with_a_list(
    following: Following,
) -> None:
    for index in range(2):
        following.server.put("pods", pod(index))
    following.start()
    await following.until(lambda: following.server.asked("pods", watch=True))
    following.server.remove("pods", "default-1", unseen=True)
    following.server.put("pods", pod(2))
    await following.until(lambda: following.known() == {"default-0", "default-2"})
    assert following.lists == 2


async def test_a_watch_that_cannot_go_on_where_it_was_begins_again_with_a_list(
    following: Following,
) -> None:
    following.server.broken_watches = 1
    following.start(pace=Pace(renewal_seconds=1, silence_seconds=60, resumption_seconds=0.3))
    await following.until(lambda: following.lists)
    following.server.put("pods", pod())
    await following.until(following.known)
    following.server.remove("pods", "default-0", unseen=True)  # before the watch goes on
    await following.until(lambda: not following.known())
    assert following.lists == 2


async def test_a_list_whose_continuation_is_forgotten_begins_again(
    following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "CHUNK", 1)
    for index in range(3):
        following.server.put("pods", pod(index))
    store = following.cache.store

    def forget_once(plural: str, manifest: dict[str, Any]) -> None:
        store(plural, manifest)
        if len(following.server.asked("pods", watch=False)) == 1:
            following.server.put("services", pod())
            following.server.compact()

    monkeypatch.setattr(following.cache, "store", forget_once)
    following.start()
    await following.until(lambda: following.lists)
    assert len(following.known()) == 3
    assert len(following.server.asked("pods", watch=False)) == 1 + 1 + 3


async def test_what_came_while_a_list_was_read_is_not_swept(
    following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "CHUNK", 1)
    for index in range(2):
        following.server.put("pods", pod(index))
    store = following.cache.store

    def create_meanwhile(plural: str, manifest: dict[str, Any]) -> None:
        store(plural, manifest)
        following.cache.store_pod({**pod(7), "metadata": {**pod(7)["metadata"], "resourceVersion": "99"}})

    monkeypatch.setattr(following.cache, "store", create_meanwhile)
    following.start()
    await following.until(lambda: following.lists)
    assert "default-7" in following.known()


async def test_a_watch_that_has_gone_silent_begins_again_with_a_list(
    following: Following, caplog: pytest.LogCaptureFixture
) -> None:
    following.server.silent_watches = 2
    following.start(pace=QUICK)
    await following.until(lambda: following.server.asked("pods", watch=True))
    following.server.put("pods", pod())
    await following.until(following.known)
    assert following.lists >= 2
    assert "the watch of pods was silent" in caplog.text


async def test_an_outage_is_one_line_and_its_end_another(
    following: Following, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kubedet_operator.cluster.outages.FIRST_RETRY_SECONDS", 0.001)
    caplog.set_level(logging.INFO, logger="kubedet_operator")
    following.server.refusals = [(503, "starting")] * 5
    following.start()
    await following.until(lambda: following.lists)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "starting" in told[0]
    assert told[1] == "the API server serves the operator again"


async def test_a_single_refusal_is_not_worth_a_line(
    following: Following, caplog: pytest.LogCaptureFixture
) -> None:
    following.server.refusals = [(500, "etcd leader changed")]
    following.start()
    await following.until(lambda: following.lists)
    assert not caplog.records
