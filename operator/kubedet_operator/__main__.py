"""The operator's process: settings, tasks, and kopf, which is started anew when the API server was lost."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, NoReturn

import kopf

from kubedet_operator import endpoint, errors, handlers
from kubedet_operator.cache import Cache, Key
from kubedet_operator.cluster import Cluster
from kubedet_operator.metrics import Health, Metrics
from kubedet_operator.progress import ProgressPoller
from kubedet_operator.reconcile import Reconciler
from kubedet_operator.settings import InvalidSetting, OperatorSettings, read_settings
from kubedet_operator.workqueue import WorkQueue

logger = logging.getLogger("kubedet_operator")

SETTLE_SECONDS = 1.0
"""How long after the beginning of a watch the world is read again."""

FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 30.0
_USAGE = 2


class Operator:
    """All parts of the process, and when they run."""

    def __init__(self, settings: OperatorSettings) -> None:
        self._settings = settings
        self._health = Health()
        self._metrics = Metrics()
        self._queue: WorkQueue[Key] = WorkQueue()
        self._cache = Cache(self._queue.add)
        self._cluster = Cluster(self._metrics)
        self._reconciler = Reconciler(
            self._cluster, self._cache, self._queue, metrics=self._metrics, settings=settings
        )
        self._poller = ProgressPoller(
            self._cache, self._queue, interval_seconds=settings.progress_interval_seconds
        )
        self._stop = asyncio.Event()
        self._watch_begins = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            OSError: the port of the metrics is taken.
        """
        self._metrics.expose_jobs(self._cache.jobs)
        server = endpoint.serve(self._settings.metrics_port, metrics=self._metrics, health=self._health)
        logger.info("metrics and health on port %d", server.server_port)
        # kopf ends what was started after it: our own tasks come first.
        tasks = [asyncio.create_task(part()) for part in self._parts()]
        try:
            await self._serve()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._cluster.close()
            server.shutdown()

    def _parts(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        workers = [self._reconciler.work] * self._settings.concurrency
        return [self._beat, self._resync, self._poller.run, *workers]

    async def _serve(self) -> None:
        """Read the world, watch it, and begin anew when a watch is lost for good."""
        retry = _Retry()
        while not self._stop.is_set():
            # kopf takes the signals over while it runs, and gives them up when it ends.
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
            try:
                await self._until_stopped(self._reconciler.resync())
                if self._stop.is_set():
                    return
                retry.succeed()
                self._health.ready = True
                await self._watch()
                return
            except errors.OperatorError as error:
                problem = str(error)
            except Exception as error:
                problem = f"the watches ended: {' '.join(str(error).split()) or type(error).__name__}"
            self._health.ready = False
            self._health.watched_at.clear()
            await self._until_stopped(retry.wait(problem))

    async def _watch(self) -> None:
        """Run kopf until a signal; errors of its watches come out of it."""
        registry = handlers.build_registry(self._cache, cluster=self._cluster, health=self._health)
        await kopf.operator(
            registry=registry,
            settings=handlers.configure(self._health, watch_begins=self._watch_begins.set),
            standalone=True,
            clusterwide=not self._settings.namespaces,
            namespaces=self._settings.namespaces,
        )

    async def _until_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for `work`, or drop it when the process is to end."""
        task = asyncio.create_task(work)
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if task.done():
            task.result()
            return
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def _beat(self) -> None:
        """Show that the event loop turns, and how late."""
        pause = 1.0
        while True:
            due = time.monotonic() + pause
            await asyncio.sleep(pause)
            self._health.loop_at = time.monotonic()
            self._metrics["event_loop_lag"].set(max(self._health.loop_at - due, 0.0))
            self._metrics["queue_depth"].set(len(self._queue))
            for resource, age in self._health.ages().items():
                self._metrics["watch_age"].labels(resource).set(age)

    async def _resync(self) -> None:
        """Read the world again after every beginning of a watch: it never tells what was deleted before."""
        while True:
            await self._watch_begins.wait()
            await asyncio.sleep(SETTLE_SECONDS)
            self._watch_begins.clear()
            try:
                await self._reconciler.resync()
            except errors.OperatorError as error:
                logger.warning(
                    "reading all jobs again: %s; tried again in %.0f s", error, LONGEST_RETRY_SECONDS
                )
                await asyncio.sleep(LONGEST_RETRY_SECONDS)
                self._watch_begins.set()


class _Retry:
    """Growing pauses, and one line for each problem, however often it is met."""

    def __init__(self) -> None:
        self._pause = FIRST_RETRY_SECONDS
        self._said = ""

    async def wait(self, problem: str) -> None:
        if problem != self._said:
            logger.error(
                "%s; tried again every %.0f to %.0f s", problem, FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS
            )
            self._said = problem
        await asyncio.sleep(self._pause)
        self._pause = min(self._pause * 2, LONGEST_RETRY_SECONDS)

    def succeed(self) -> None:
        if self._said:
            logger.info("the API server serves DetectionJobs again")
        self._pause, self._said = FIRST_RETRY_SECONDS, ""


def main() -> NoReturn:
    """Run the operator with the settings of the environment, and exit."""
    is_person = sys.stderr.isatty()
    kopf.configure(log_format=kopf.LogFormat.FULL if is_person else kopf.LogFormat.JSON)
    for handler in logging.getLogger().handlers:
        handler.addFilter(handlers.OneLine())
    try:
        settings = read_settings(os.environ)
    except InvalidSetting as error:
        logger.error("%s", error)
        sys.exit(_USAGE)
    try:
        asyncio.run(_run(settings))
    except OSError as error:
        logger.error(
            "port %d of the metrics: %s; set KUBEDET_OPERATOR_METRICS_PORT", settings.metrics_port, error
        )
        sys.exit(_USAGE)
    sys.exit(0)


async def _run(settings: OperatorSettings) -> None:
    await Operator(settings).run()


if __name__ == "__main__":
    main()
