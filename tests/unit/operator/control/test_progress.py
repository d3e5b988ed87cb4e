"""Asking workers how far they are: rank 0 may be anywhere, and nobody has to answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import aiohttp.web
import pytest

import builders
from kubedet_operator.cluster.cache import Cache, Key
from kubedet_operator.control.progress import ProgressPoller
from kubedet_operator.control.workqueue import WorkQueue
from kubedet_trainer import contract

KEY = ("default", "demo")


class Workers:
    """Worker pods on one address; only the one named answers with a record."""

    def __init__(self) -> None:
        self.record: dict[str, Any] | None = None
        self.stale: dict[str, dict[str, Any]] = {}
        """Answers of pods at other addresses."""
        self.asked = 0
        self.port = 0

    async def answer(self, request: aiohttp.web.Request) -> aiohttp.web.Response:
        self.asked += 1
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
    asking = asyncio.create_task(ProgressPoller(cache, queue, interval_seconds=0.01).run(leading))
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
    workers.record = {"progress": {"stage": "Sleeping"}}
    await _asked(workers, 3)
    assert KEY not in cache.progress
    assert len(queue) == 0


async def test_a_finished_job_is_not_asked(workers: Workers, cache: Cache) -> None:
    job = builders.make_manifest(metrics={"port": workers.port})
    job["metadata"] |= {"uid": builders.UID, "resourceVersion": "9"}
    job["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    cache.store_job(job)
    await asyncio.sleep(0.05)
    asked = workers.asked
    await asyncio.sleep(0.05)
    assert workers.asked == asked
