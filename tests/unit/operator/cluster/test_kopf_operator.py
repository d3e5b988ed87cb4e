"""kopf, run as the operator runs it, against an API server in memory."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

import builders
from api_server import ApiServer
from kubedet_operator.api import names
from kubedet_operator.cluster import errors, kopf_operator
from kubedet_operator.cluster.client import Cluster
from kubedet_operator.cluster.connection import Credentials
from kubedet_operator.cluster.kopf_operator import HEALTH_PATH, Handlers, KopfOperator

JOB = builders.make_manifest()
JOB["metadata"] |= {"uid": builders.UID, "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"}


class Kopf:
    """kopf, and what it has called. It has a thread of its own, for it ends with all tasks of its loop."""

    def __init__(self, client: Cluster) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.calls: list[str] = []
        self.heard: list[tuple[str | None, str]] = []
        self.complaint: str | None = None
        self.logins = 0
        self.refused_logins = 0
        self._client = client
        self._operator: KopfOperator | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Future[None] | None = None

    def start(self, *, namespaces: tuple[str, ...] = ()) -> None:
        handlers = Handlers(
            login=self._login,
            start=lambda: self._call("start"),
            end=lambda: self._call("end"),
            hear=self._hear,
            complaint=lambda: self.complaint,
        )
        self._operator = operator = KopfOperator(handlers, namespaces=namespaces, health_port=self.port)

        async def run() -> None:
            self._loop = asyncio.get_running_loop()
            await operator.run()

        loop = asyncio.get_running_loop()
        self._ended = loop.run_in_executor(None, lambda: asyncio.run(run()))

    async def _login(self) -> Credentials:
        self.logins += 1
        if self.logins <= self.refused_logins:
            raise errors.LoginFailed("no kubeconfig")
        return await self._client.credentials()

    async def _call(self, what: str) -> None:
        self.calls.append(what)

    def _hear(self, change: str | None, job: dict[str, Any]) -> None:
        self.heard.append((change, job["metadata"]["name"]))
        if job["metadata"]["name"] == "breaks-us":
            raise ValueError("a bug")

    async def until(self, look: Callable[[], Any]) -> None:
        while not look():
            assert self._ended is not None
            assert not self._ended.done(), self._ended
            await asyncio.sleep(0.01)

    async def probe(self) -> int:
        """The status code that the kubelet gets."""
        url = f"http://127.0.0.1:{self.port}{HEALTH_PATH}"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status

    async def end(self) -> None:
        if self._ended is None or self._loop is None or self._operator is None:
            return
        if not self._ended.done():
            self._loop.call_soon_threadsafe(self._operator.stop)
        await asyncio.wait_for(self._ended, 20)


@pytest.fixture
async def kopf(client: Cluster, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kopf]:
    monkeypatch.setattr(kopf_operator, "LOGIN_SECONDS", 0.01)
    kopf = Kopf(client)
    yield kopf
    await kopf.end()


async def test_kopf_tells_of_every_change_of_a_job_and_writes_nothing(kopf: Kopf, server: ApiServer) -> None:
    server.put(names.PLURAL, JOB)
    kopf.start()
    await kopf.until(lambda: kopf.heard)
    server.put(names.PLURAL, {**JOB, "status": {"phase": "Running"}})
    await kopf.until(lambda: len(kopf.heard) == 2)
    server.remove(names.PLURAL, builders.UID)
    await kopf.until(lambda: len(kopf.heard) == 3)
    assert kopf.heard == [(None, "demo"), ("MODIFIED", "demo"), ("DELETED", "demo")]
    assert {method for method, _, _ in server.requests} == {"GET"}


async def test_kopf_asks_for_jobs_of_the_served_namespaces_and_for_nothing_else(
    kopf: Kopf, server: ApiServer
) -> None:
    server.put(names.PLURAL, {**JOB, "metadata": {**JOB["metadata"], "namespace": "elsewhere"}})
    server.put(names.PLURAL, {**JOB, "metadata": {**JOB["metadata"], "uid": "ours", "namespace": "team-a"}})
    kopf.start(namespaces=("team-a", "team-b"))
    await kopf.until(lambda: len(server.asked(names.PLURAL, watch=True)) == 2)
    await kopf.until(lambda: kopf.heard)
    assert kopf.heard == [(None, "demo")]
    listed = {path for _, path, _ in server.requests if names.PLURAL in path}
    jobs = f"apis/{names.API_VERSION}/namespaces"
    assert listed == {f"{jobs}/{namespace}/{names.PLURAL}" for namespace in ("team-a", "team-b")}
    others = {path for _, path, _ in server.requests} - listed
    discovery = {"api", "api/v1", "apis", f"apis/{names.API_VERSION}", "apis/apiextensions.k8s.io/v1"}
    assert others <= discovery


async def test_our_parts_start_before_kopf_watches_and_end_after_it(kopf: Kopf, server: ApiServer) -> None:
    kopf.start()
    await kopf.until(lambda: kopf.calls)
    assert not server.asked(names.PLURAL, watch=True)
    await kopf.until(lambda: server.asked(names.PLURAL, watch=True))
    await kopf.end()
    assert kopf.calls == ["start", "end"]


async def test_the_probe_tells_whether_a_restart_would_help(
    kopf: Kopf, monkeypatch: pytest.MonkeyPatch
) -> None:
    kopf.complaint = "the watch of pods has been silent for 300 s"
    kopf.start()
    await kopf.until(lambda: kopf.calls)
    while True:
        try:
            assert await kopf.probe() == 500
            break
        except aiohttp.ClientConnectorError:
            await asyncio.sleep(0.01)
    kopf.complaint = None
    assert await kopf.probe() == 200


async def test_kopf_waits_for_credentials_and_for_an_api_server_that_is_away(
    kopf: Kopf, server: ApiServer
) -> None:
    server.put(names.PLURAL, JOB)
    server.refusals = [(503, "starting")]
    kopf.refused_logins = 2
    kopf.start()
    await kopf.until(lambda: kopf.heard)
    assert kopf.logins == 3
    assert not server.refusals


async def test_a_bug_in_our_handler_is_told_and_ends_nothing(
    kopf: Kopf, server: ApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    breaking = {**JOB, "metadata": {**JOB["metadata"], "uid": "1", "name": "breaks-us"}}
    kopf.start()
    await kopf.until(lambda: server.asked(names.PLURAL, watch=True))
    server.put(names.PLURAL, breaking)
    server.put(names.PLURAL, JOB)
    await kopf.until(lambda: len(kopf.heard) == 2)
    assert "this is a bug of the operator" in caplog.text
