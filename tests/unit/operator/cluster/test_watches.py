"""The seam to kopf, and how its streams get into the cache."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import kopf
import pytest
from kopf._cogs.clients import api, watching
from kopf._core.reactor import orchestration, queueing

import builders
from kubedet_operator.api import names
from kubedet_operator.cluster import watches
from kubedet_operator.cluster.cache import Cache
from kubedet_operator.cluster.echoes import OVERDUE_SECONDS, Echoes
from kubedet_operator.telemetry.health import Health

PODS = SimpleNamespace(plural="pods")
JOBS = SimpleNamespace(plural=names.PLURAL)


def test_kopf_has_the_seam_that_watches_are_put_into() -> None:
    known = set(inspect.signature(queueing.watcher).parameters)
    assert {"settings", "resource", "namespace"} <= known
    assert vars(orchestration)["queueing"] is queueing
    assert "coro=queueing.watcher(" in inspect.getsource(orchestration)
    assert {"settings", "resource", "namespace"} <= set(inspect.signature(watching.infinite_watch).parameters)
    assert "yield json.loads(" in inspect.getsource(api.stream)
    assert set(re.findall(r"\bjson\.(\w+)", inspect.getsource(api))) == {"loads"}, "of orjson"


class Streams:
    """kopf's streams, as told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cache = Cache(lambda _: None, lambda _: None)
        self.health = Health()
        self.listed = 0
        self.now = 0.0
        self.echoes = Echoes(lambda: self.now)
        self.watches = watches.Watches(
            self.cache, health=self.health, echoes=self.echoes, namespaces=(), listed=self._tell
        )
        self.events: list[Any] = []
        monkeypatch.setattr(watching, "infinite_watch", self._stream)

    def _tell(self) -> None:
        self.listed += 1

    async def _stream(self, *, resource: Any, **_: Any) -> AsyncIterator[Any]:
        for event in self.events:
            if event == "begin":
                self.watches.begin(resource)
            elif event == "silence":
                self.events = [LISTED]  # of the stream after this one
                self.echoes.wrote(resource.plural, pod(7)["metadata"])
                self.now += OVERDUE_SECONDS + 1
                await asyncio.sleep(60)
            else:
                yield event

    async def follow(self, resource: Any, *events: Any) -> None:
        self.events = list(events)
        settings = kopf.OperatorSettings()
        await asyncio.create_task(
            self.watches.follow(settings=settings, resource=resource, namespace=None, processor=None)
        )


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Streams:
    return Streams(monkeypatch)


def pod(version: int, uid: str = "pod-uid") -> dict[str, Any]:
    found = builders.make_pod(uid=uid)
    found["metadata"]["resourceVersion"] = str(version)
    return found


LISTED = watching.Bookmark.LISTED
KEY = ("default", "demo")


async def test_the_world_is_known_once_every_stream_has_been_listed(streams: Streams) -> None:
    await streams.follow(PODS, "begin", LISTED)
    await streams.follow(SimpleNamespace(plural="services"), "begin", LISTED)
    assert streams.listed == 0
    await streams.follow(JOBS, "begin", LISTED)
    assert streams.listed == 1


async def test_events_reach_the_cache_and_bookmarks_show_life(streams: Streams) -> None:
    await streams.follow(
        PODS, LISTED, {"type": "ADDED", "object": pod(3)}, {"type": "BOOKMARK", "object": {}}
    )
    assert [found.uid for found in streams.cache.pods(KEY)] == ["pod-uid"]
    assert ("pods", None) in streams.health.watched_at
    await streams.follow(PODS, {"type": "DELETED", "object": pod(4)})
    assert not streams.cache.pods(KEY)


async def test_a_new_list_drops_what_it_does_not_show_but_not_what_came_meanwhile(streams: Streams) -> None:
    streams.cache.store_pod(pod(3))
    new = pod(9, uid="made-meanwhile")
    new["metadata"]["name"] = "demo-worker-1"
    await streams.follow(PODS, "begin", {"type": None, "object": pod(3)}, LISTED)
    assert len(tuple(streams.cache.pods(KEY))) == 1

    async def stream(*, resource: Any, **_: Any) -> AsyncIterator[Any]:
        streams.watches.begin(resource)
        streams.cache.store_pod(new)
        yield LISTED

    watching.infinite_watch = stream  # put back with the fixture
    await streams.follow(PODS)
    assert [found.uid for found in streams.cache.pods(KEY)] == ["made-meanwhile"]


async def test_a_watch_that_does_not_show_what_was_written_is_begun_anew(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watches, "GUARD_SECONDS", 0.01)
    await streams.follow(PODS, "begin", {"type": None, "object": pod(3)}, LISTED, "silence")
    assert streams.events == [LISTED]
    assert not streams.echoes.is_overdue("pods", None)
