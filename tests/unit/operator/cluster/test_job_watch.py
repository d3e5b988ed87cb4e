"""Jobs in the cache: what kopf tells, and what only a list tells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import builders
from api_server import ApiServer
from kubedet_operator.api import names
from kubedet_operator.cluster import job_watch
from kubedet_operator.cluster.cache import Cache
from kubedet_operator.cluster.client import Cluster
from kubedet_operator.cluster.job_watch import JobWatch
from kubedet_operator.cluster.outages import Outages
from kubedet_operator.telemetry.health import LONGEST_SILENCE_SECONDS, Health


class Watching:
    """A job watch that runs, with a clock that the test turns."""

    def __init__(self, server: ApiServer, client: Cluster) -> None:
        self.server = server
        self.now = 0.0
        self.health = Health(clock=lambda: self.now)
        self.cache = Cache(lambda _: None, lambda _: None)
        self.restarts = 0
        self.watch = JobWatch(
            client, self.cache, Outages(self.health), namespaces=(), restart_kopf=self._restart
        )
        self.task = asyncio.create_task(self.watch.run())

    def _restart(self) -> None:
        self.restarts += 1

    async def until(self, look: Callable[[], Any]) -> None:
        while not look():
            assert not self.task.done(), self.task
            await asyncio.sleep(0.01)

    async def until_listed_again(self) -> None:
        """Return once a list that began after this call has been taken in."""
        lists = len(self.server.asked(names.PLURAL, watch=False))
        await self.until(lambda: len(self.server.asked(names.PLURAL, watch=False)) >= lists + 2)


@pytest.fixture
async def watching(
    server: ApiServer, client: Cluster, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Watching]:
    monkeypatch.setattr(job_watch, "LIST_SECONDS", 0.01)
    server.put(names.PLURAL, job("first"))
    watching = Watching(server, client)
    yield watching
    watching.task.cancel()
    await asyncio.gather(watching.task, return_exceptions=True)


def job(name: str, **spec: Any) -> dict[str, Any]:
    manifest = builders.make_manifest(name=name, **spec)
    manifest["metadata"]["uid"] = name
    return manifest


def event_of(server: ApiServer) -> tuple[str, dict[str, Any]]:
    """The newest event, as kopf hands it over."""
    _, _, event = server._history[-1]
    return event["type"], event["object"]


async def test_jobs_are_known_once_they_have_been_listed(watching: Watching) -> None:
    assert not watching.watch.listed.is_set()
    await watching.watch.listed.wait()
    assert watching.cache.job_keys() == [("default", "first")]


async def test_what_kopf_tells_is_known_at_once(watching: Watching) -> None:
    await watching.watch.listed.wait()
    watching.server.put(names.PLURAL, job("second"))
    watching.watch.hear(*event_of(watching.server))
    assert ("default", "second") in watching.cache.job_keys()
    watching.server.remove(names.PLURAL, "second")
    watching.watch.hear(*event_of(watching.server))
    assert ("default", "second") not in watching.cache.job_keys()


async def test_a_list_tells_what_kopf_has_not_told(watching: Watching) -> None:
    await watching.watch.listed.wait()
    watching.server.put(names.PLURAL, job("unheard-of"))
    watching.server.remove(names.PLURAL, "first")
    await watching.until(lambda: watching.cache.job_keys() == [("default", "unheard-of")])


async def test_a_watch_that_stays_behind_the_lists_is_complained_about_until_it_tells(
    watching: Watching,
) -> None:
    await watching.watch.listed.wait()
    watching.server.put(names.PLURAL, job("unheard-of"))
    await watching.until_listed_again()
    watching.now += LONGEST_SILENCE_SECONDS + 1
    await watching.until_listed_again()
    assert f"the watch of {names.PLURAL} has been silent" in (watching.health.complaint() or "")
    watching.watch.hear(*event_of(watching.server))
    assert watching.health.complaint() is None


async def test_a_quiet_cluster_is_no_reason_to_complain(watching: Watching) -> None:
    await watching.watch.listed.wait()
    watching.now += LONGEST_SILENCE_SECONDS + 1
    await watching.until_listed_again()
    assert watching.health.complaint() is None


async def test_an_api_server_that_is_away_is_no_reason_to_restart_the_operator(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kubedet_operator.cluster.outages.FIRST_RETRY_SECONDS", 0.001)
    await watching.watch.listed.wait()
    watching.server.refusals = [(503, "away")] * 1000
    await watching.until(lambda: len(watching.server.refusals) < 1000)
    watching.now += LONGEST_SILENCE_SECONDS + 1
    refused = len(watching.server.refusals)
    await watching.until(lambda: len(watching.server.refusals) < refused - 1)
    assert watching.health.complaint() is None
    assert watching.health.ages()[names.PLURAL] > LONGEST_SILENCE_SECONDS


@pytest.mark.parametrize("ability", ["knows_jobs", "names_jobs"])
async def test_kopf_starts_again_when_the_api_server_serves_and_names_jobs_at_last(
    ability: str,
    server: ApiServer,
    client: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("kubedet_operator.cluster.outages.FIRST_RETRY_SECONDS", 0.001)
    setattr(server, ability, False)
    watching = Watching(server, client)
    await watching.until(lambda: "manifests/crds" in caplog.text)
    assert watching.restarts == 0
    assert not watching.watch.listed.is_set()
    setattr(server, ability, True)
    await watching.watch.listed.wait()
    assert watching.restarts == 1
    watching.task.cancel()
    await asyncio.gather(watching.task, return_exceptions=True)
