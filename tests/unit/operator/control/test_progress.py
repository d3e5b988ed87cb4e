"""Asking workers how far they are: rank 0 may be anywhere, and nobody has to answer."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import aiohttp.web
import pytest

import builders
from kubedet_operator.cluster.cache import Cache, Key
from kubedet_operator.control.progress import ProgressPoller
from kubedet_operator.control.workqueue import WorkQueue
from kubedet_operator.decision import reports
from kubedet_operator.telemetry.health import Health
from kubedet_trainer import contract
from kubedet_trainer.contract.times import format_time, parse_time

KEY = ("default", "demo")


class Workers:
    """Worker pods on one address; only the one named answers with a record."""

    def __init__(self) -> None:
        self.record: dict[str, Any] | None = None
        self.stale: dict[str, dict[str, Any]] = {}
        """Answers of pods at other addresses."""
        self.asked = 0
        self.port = 0
        self.encodings: set[str] = set()
        self.misbehave: Callable[[aiohttp.web.Request], Awaitable[aiohttp.web.StreamResponse]] | None = None
        self.elsewhere = 0
        self.sent = 0

    async def lead_astray(self, request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        raise aiohttp.web.HTTPFound("/elsewhere")

    async def answer_elsewhere(self, request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        self.elsewhere += 1
        return await self.answer(request)

    async def say(self, text: str) -> aiohttp.web.StreamResponse:
        return aiohttp.web.Response(text=text)

    async def explode(self, request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        bomb = gzip.compress(b'{"progress": "' + b"x" * 10_000_000 + b'"}')
        return aiohttp.web.Response(body=bomb, headers={"Content-Encoding": "gzip"})

    async def never_end(self, request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        response = aiohttp.web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)
            self.sent += 65536

    async def answer(self, request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        self.asked += 1
        self.encodings.add(request.headers.get("Accept-Encoding", ""))
        if self.misbehave is not None:
            return await self.misbehave(request)
        record = self.stale.get(request.url.host or "", self.record)
        if record is None:
            return aiohttp.web.json_response({}, status=404)
        return aiohttp.web.json_response(record)

    def report(self, iteration: int, percentage: int) -> None:
        progress = contract.Progress(
            stage=contract.Stage.TRAINING,
            iteration=iteration,
            totalIterations=1000,
            percentage=percentage,
            lastProgressTime=f"2026-01-01T00:{iteration // 60:02}:{iteration % 60:02}Z",
        )
        self.record = asdict(contract.ProgressRecord(progress=progress))


@pytest.fixture
async def workers() -> AsyncIterator[Workers]:
    workers = Workers()
    application = aiohttp.web.Application()
    application.router.add_get("/progress", workers.answer)
    application.router.add_get("/elsewhere", workers.answer_elsewhere)
    runner = aiohttp.web.AppRunner(application)
    await runner.setup()
    await aiohttp.web.TCPSite(runner, "0.0.0.0", 0).start()
    workers.port = runner.addresses[0][1]
    yield workers
    await runner.cleanup()


@pytest.fixture
async def queue() -> WorkQueue[Key]:
    return WorkQueue()


@pytest.fixture
async def cache(workers: Workers, queue: WorkQueue[Key]) -> AsyncIterator[Cache]:
    """A cache with one running worker, and somebody who asks it all the time."""
    cache = Cache(lambda _: None, lambda _: None)
    job = builders.make_manifest(metrics={"port": workers.port})
    job["metadata"] |= {"uid": builders.UID, "resourceVersion": "1"}
    cache.store_job(job)
    pod = builders.make_pod()
    pod["metadata"]["resourceVersion"] = "2"
    pod["status"]["podIP"] = "127.0.0.1"
    cache.store_pod(pod)
    leading = asyncio.Event()
    leading.set()
    poller = ProgressPoller(
        cache, queue, health=Health(), interval_seconds=0.01, clock=lambda: datetime.now(UTC)
    )
    asking = asyncio.create_task(poller.run(leading))
    yield cache
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


async def _publish_first(workers: Workers, queue: WorkQueue[Key]) -> None:
    workers.report(1, 0)
    assert await asyncio.wait_for(queue.get(), 10) == KEY
    queue.done(KEY)


async def _asked(workers: Workers, times: int) -> None:
    goal = workers.asked + times
    while workers.asked < goal:
        await asyncio.sleep(0.005)


async def test_the_first_answer_and_telling_changes_are_published_small_ones_are_kept(
    workers: Workers, cache: Cache, queue: WorkQueue[Key]
) -> None:
    await _publish_first(workers, queue)
    workers.report(2, 0)
    await _asked(workers, 3)
    assert cache.progress[KEY].progress.iteration == 2
    assert len(queue) == 0
    workers.report(20, 2)
    assert await asyncio.wait_for(queue.get(), 10) == KEY


async def test_a_straggler_is_published_when_it_comes_and_goes_not_when_it_gets_slower(
    workers: Workers, cache: Cache, queue: WorkQueue[Key]
) -> None:
    async def publish(straggler: dict[str, Any] | None) -> None:
        workers.record = {**(workers.record or {}), "straggler": straggler}
        assert await asyncio.wait_for(queue.get(), 10) == KEY
        queue.done(KEY)

    slow = {"rank": 3, "replica": 1, "ratio": 1.8, "since": "2026-01-01T00:00:00Z"}
    await _publish_first(workers, queue)
    await publish(slow)
    workers.record = {**(workers.record or {}), "straggler": {**slow, "rank": 2, "ratio": 1.9}}
    await _asked(workers, 3)
    assert len(queue) == 0
    await publish(None)


async def test_the_last_words_of_a_pod_that_rank_0_has_left_hide_no_progress(
    workers: Workers, cache: Cache, queue: WorkQueue[Key]
) -> None:
    await _publish_first(workers, queue)
    assert workers.record is not None
    workers.stale["127.0.0.1"] = workers.record
    other = builders.make_pod(index=1, uid="other-uid")
    other["metadata"]["resourceVersion"] = "3"
    other["status"]["podIP"] = "127.0.0.2"
    cache.store_pod(other)
    workers.report(20, 2)
    assert await asyncio.wait_for(queue.get(), 10) == KEY
    assert cache.progress[KEY].progress.iteration == 20


async def test_no_answer_and_nonsense_are_no_progress(
    workers: Workers, cache: Cache, queue: WorkQueue[Key]
) -> None:
    await _asked(workers, 3)
    workers.record = {"progress": {"stage": 7}}
    await _asked(workers, 3)
    assert KEY not in cache.progress
    assert len(queue) == 0


@pytest.mark.parametrize("bomb", ["[" * 60_000, '{"progress": ' + "9" * 20_000 + "}", "{}", "null", ""])
async def test_a_hostile_answer_ends_no_poll(
    workers: Workers, cache: Cache, queue: WorkQueue[Key], bomb: str
) -> None:
    workers.misbehave = lambda _: workers.say(bomb)
    await _asked(workers, 3)
    assert KEY not in cache.progress
    workers.misbehave = None
    await _publish_first(workers, queue)


async def test_redirects_are_not_followed(workers: Workers, cache: Cache) -> None:
    workers.report(1, 0)
    workers.misbehave = workers.lead_astray
    await _asked(workers, 3)
    assert workers.elsewhere == 0
    assert KEY not in cache.progress


async def test_nothing_is_decompressed(
    workers: Workers, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    monkeypatch.setattr(reports, "read_progress", lambda answer: read.append(len(answer)))
    workers.misbehave = workers.explode
    await _asked(workers, 3)
    assert workers.encodings == {"identity"}
    assert read
    assert max(read) < 20_000


async def test_an_answer_without_end_is_read_up_to_the_limit(
    workers: Workers, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    monkeypatch.setattr(reports, "read_progress", lambda answer: read.append(len(answer)))
    workers.misbehave = workers.never_end
    await _asked(workers, 3)
    assert read
    assert reports.MAX_BYTES < max(read) < 10 * reports.MAX_BYTES


async def test_a_bug_about_one_answer_ends_no_poll(
    workers: Workers,
    cache: Cache,
    queue: WorkQueue[Key],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(answer: bytes) -> None:
        raise LookupError("a bug")

    workers.report(1, 0)
    with monkeypatch.context() as broken:
        broken.setattr(reports, "read_progress", fail)
        await _asked(workers, 3)
    assert "default/demo: this is a bug in the operator" in caplog.text
    await _publish_first(workers, queue)


@pytest.mark.parametrize("ahead", [-3600, 3600])
async def test_times_of_a_worker_whose_clock_is_wrong_are_read_in_the_clusters_time(
    workers: Workers, cache: Cache, queue: WorkQueue[Key], ahead: int
) -> None:
    now = datetime.now(UTC)
    wrong = now + timedelta(seconds=ahead)
    workers.report(1, 0)
    assert workers.record is not None
    workers.record["progress"]["lastProgressTime"] = format_time(wrong)
    workers.record["checkpoint"] = {
        "latest": "s3://b/step-1",
        "iteration": 1,
        "time": format_time(wrong),
        "sizeBytes": 1,
        "saveSeconds": 1.0,
        "stallSeconds": 0.0,
    }

    async def answer(_: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=ahead), usegmt=True)
        return aiohttp.web.json_response(workers.record, headers={"Date": date})

    workers.misbehave = answer
    await _asked(workers, 3)
    record = cache.progress[KEY]
    assert record.checkpoint is not None
    for told in (record.progress.lastProgressTime, record.checkpoint.time):
        assert abs((parse_time(told or "") - now).total_seconds()) < 5
    queue.done(await asyncio.wait_for(queue.get(), 10))
    await _asked(workers, 3)
    assert cache.progress[KEY] == record
    assert len(queue) == 0


@pytest.mark.parametrize("date", ["", "soon", "Fri, 01 Jan 1971 00:00:00 GMT"])
async def test_a_date_that_is_none_changes_no_time(workers: Workers, cache: Cache, date: str) -> None:
    workers.report(7, 0)

    async def answer(_: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        return aiohttp.web.json_response(workers.record, headers={"Date": date})

    workers.misbehave = answer
    await _asked(workers, 3)
    assert cache.progress[KEY].progress.lastProgressTime == "2026-01-01T00:00:07Z"


async def test_a_finished_job_is_not_asked(workers: Workers, cache: Cache) -> None:
    job = builders.make_manifest(metrics={"port": workers.port})
    job["metadata"] |= {"uid": builders.UID, "resourceVersion": "9"}
    job["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    cache.store_job(job)
    await asyncio.sleep(0.05)
    asked = workers.asked
    await asyncio.sleep(0.05)
    assert workers.asked == asked
