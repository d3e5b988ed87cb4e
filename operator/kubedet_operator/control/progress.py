"""Asks the workers of running jobs how far they are, and says when an answer is worth a new status."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import aiohttp

from kubedet_operator.api import conditions, names
from kubedet_operator.cluster.cache import Cache, Key
from kubedet_operator.cluster.clock import read_date
from kubedet_operator.control.workqueue import WorkQueue
from kubedet_operator.decision import reports
from kubedet_operator.decision.objects import CLOCK_SECONDS
from kubedet_operator.decision.pods import PodFacts
from kubedet_operator.telemetry.health import PROGRESS, Health
from kubedet_trainer import contract

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 2
"""A worker that takes longer is asked again the next time."""

PUBLISH_SECONDS = 300
"""How old the iteration in a status may get while it moves by less than 1 %."""

_ENDED = (conditions.ConditionType.COMPLETE.value, conditions.ConditionType.FAILED.value)
_PARALLEL = 32
"""Jobs that are asked at once."""

_MOST_AHEAD_SECONDS = 86400
"""A date that differs by more is not that of a clock."""

_HEADERS = {"Accept-Encoding": "identity"}
"""No answer is decompressed: a small one could become a huge one."""


class ProgressPoller:
    """Keeps `Cache.progress` current. A worker that cannot be reached is no failure; its pod's end is."""

    def __init__(
        self,
        cache: Cache,
        queue: WorkQueue[Key],
        *,
        health: Health,
        interval_seconds: float,
        clock: Callable[[], datetime],
    ) -> None:
        """`clock` is what decisions are made by."""
        self._cache = cache
        self._queue = queue
        self._health = health
        self._interval = interval_seconds
        self._clock = clock
        self._answered_by: dict[Key, str] = {}
        self._ahead: dict[str, float] = {}
        """Seconds by which a worker's clock is ahead, by the uid of its pod; 0 within `CLOCK_SECONDS`."""
        self._published_at: dict[Key, float] = {}

    async def run(self, leading: asyncio.Event) -> None:
        """Ask every running job once an interval while `leading` is set, for ever."""
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        # Pods have addresses of the cluster, which no proxy leads to.
        async with aiohttp.ClientSession(
            timeout=timeout,
            trust_env=False,
            headers=_HEADERS,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as session:
            while True:
                await leading.wait()
                jobs = {key: pods for key in self._cache.job_keys() if (pods := self._askable(key))}
                for forgotten in self._published_at.keys() - jobs.keys():
                    del self._published_at[forgotten]
                    self._answered_by.pop(forgotten, None)
                present = {pod.uid for pods in jobs.values() for pod in pods}
                self._ahead = {uid: seconds for uid, seconds in self._ahead.items() if uid in present}
                waiting = iter(jobs.items())
                self._health.expect_work(PROGRESS)
                await asyncio.gather(*(self._ask_jobs(session, waiting) for _ in range(_PARALLEL)))
                self._health.rest(PROGRESS)
                await asyncio.sleep(self._interval)

    async def _ask_jobs(
        self, session: aiohttp.ClientSession, waiting: Iterator[tuple[Key, list[PodFacts]]]
    ) -> None:
        """Ask one job after the other; as many of these as may be asked at once share `waiting`."""
        for key, pods in waiting:
            try:
                await self._ask_job(session, key, pods)
            except Exception:  # what one worker answers is no trouble of other jobs
                logger.exception("%s/%s: this is a bug in the operator: its progress is not known", *key)
            self._health.note_work(PROGRESS)

    def _askable(self, key: Key) -> list[PodFacts]:
        job = self._cache.job(key)
        if job is None or _has_ended(job["status"]):
            return []
        return [
            pod
            for pod in self._cache.pods(key)
            if pod.component == names.WORKER and pod.address and pod.ready and pod.active
        ]

    async def _ask_job(self, session: aiohttp.ClientSession, key: Key, pods: list[PodFacts]) -> None:
        """Ask the pod that answered last; if it tells nothing new, the others, for rank 0 may be anywhere.

        A pod that rank 0 has left answers with its last words until its ranks start again.
        """
        port = _port(self._cache.job(key) or {})
        known = self._cache.progress.get(key)
        usual = [pod for pod in pods if pod.uid == self._answered_by.get(key)]
        found = await self._ask(session, usual, port)
        if not found or known in found.values():
            found |= await self._ask(session, [pod for pod in pods if pod not in usual], port)
        if not found:
            self._answered_by.pop(key, None)
            return
        uid, record = max(found.items(), key=lambda item: item[1].progress.lastProgressTime or "")
        is_new_source = self._answered_by.get(key) != uid
        self._answered_by[key] = uid
        if record == known:
            return
        self._cache.progress[key] = record
        stale = time.monotonic() - self._published_at.get(key, 0.0) > PUBLISH_SECONDS
        if is_new_source or stale or _is_telling(known, record):
            self._published_at[key] = time.monotonic()
            self._queue.add(key)

    async def _ask(
        self, session: aiohttp.ClientSession, pods: Iterable[PodFacts], port: int
    ) -> dict[str, contract.ProgressRecord]:
        """The answers of `pods`, by uid; only a pod with rank 0 gives one."""
        asked = tuple(pods)
        answers = await asyncio.gather(*(self._ask_pod(session, pod, port) for pod in asked))
        return {pod.uid: answer for pod, answer in zip(asked, answers, strict=True) if answer}

    async def _ask_pod(
        self, session: aiohttp.ClientSession, pod: PodFacts, port: int
    ) -> contract.ProgressRecord | None:
        host = f"[{pod.address}]" if ":" in (pod.address or "") else pod.address
        try:
            async with session.get(f"http://{host}:{port}/progress", allow_redirects=False) as response:
                if response.status != 200:
                    return None
                record = reports.read_progress(await _read(response))
                if record is None:
                    return None
                ahead_seconds = self._compare_clocks(pod.uid, response.headers.get("Date", ""))
                return reports.in_cluster_time(record, ahead_seconds=ahead_seconds)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return None

    def _compare_clocks(self, uid: str, date: str) -> float:
        """How many seconds the clock of a worker that has just answered is ahead; 0 if nobody can say."""
        known = self._ahead.get(uid, 0.0)
        if (said := read_date(date)) is None:
            return known
        ahead_seconds = (said - self._clock()).total_seconds()
        # Dates are in whole seconds: times must not differ from answer to answer.
        if abs(ahead_seconds - known) > CLOCK_SECONDS:
            can_be = CLOCK_SECONDS < abs(ahead_seconds) < _MOST_AHEAD_SECONDS
            known = self._ahead[uid] = float(round(ahead_seconds)) if can_be else 0.0
        return known


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The answer, or so much of it that it is too long to be one."""
    answer = b""
    async for chunk in response.content.iter_any():
        answer += chunk
        if len(answer) > reports.MAX_BYTES:
            break
    return answer


def _is_telling(known: contract.ProgressRecord | None, record: contract.ProgressRecord) -> bool:
    """Whether a person would see a difference at a glance."""
    if known is None:
        return True
    before, now = known.progress, record.progress
    return (
        (before.stage, before.epoch, before.percentage) != (now.stage, now.epoch, now.percentage)
        or (known.checkpoint, known.worldSize) != (record.checkpoint, record.worldSize)
        or _slow_worker(known) != _slow_worker(record)
    )


def _slow_worker(record: contract.ProgressRecord) -> int | None:
    return record.straggler.replica if record.straggler else None


def _has_ended(status: Mapping[str, Any]) -> bool:
    return any(
        condition["type"] in _ENDED and condition["status"] == "True"
        for condition in status.get("conditions") or ()
    )


def _port(job: Mapping[str, Any]) -> int:
    port: int = ((job.get("spec") or {}).get("metrics") or {}).get("port", contract.METRICS_PORT)
    return port
