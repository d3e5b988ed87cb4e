"""The operator's process: settings, tasks, and kopf, which is started anew when the API server was lost."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import kopf
import uvloop

from kubedet_operator.api import names
from kubedet_operator.cluster import errors, orphans, watches
from kubedet_operator.cluster.cache import Cache, Key
from kubedet_operator.cluster.client import Cluster
from kubedet_operator.cluster.events import Events
from kubedet_operator.cluster.lease import Election, Leadership
from kubedet_operator.control.progress import ProgressPoller
from kubedet_operator.control.reconcile import GATHER_SECONDS, Reconciler
from kubedet_operator.control.workqueue import WorkQueue
from kubedet_operator.settings import InvalidSetting, OperatorSettings, read_settings
from kubedet_operator.telemetry import endpoint
from kubedet_operator.telemetry.health import Health
from kubedet_operator.telemetry.metrics import Metrics

logger = logging.getLogger("kubedet_operator")

COLLECTION_SECONDS = 5.0
"""How long after the world was read orphans are looked for: the garbage collector may be at work."""

FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 10.0
_USAGE = 2


class Operator:
    """All parts of the process, and when they run."""

    def __init__(self, settings: OperatorSettings) -> None:
        self._settings = settings
        self._health = Health()
        self._metrics = Metrics()
        self._queue: WorkQueue[Key] = WorkQueue()
        self._cache = Cache(self._queue.add, lambda key: self._queue.add_after(key, GATHER_SECONDS))
        self._leadership = Leadership()
        self._cluster = Cluster(self._metrics, may_write=self._leadership.holds)
        self._election = Election(
            self._cluster,
            self._leadership,
            namespace=settings.lease_namespace or _own_namespace(settings),
            name=names.LEASE,
            identity=f"{socket.gethostname()}_{uuid.uuid4()}",
        )
        self._events = Events(self._cluster, metrics=self._metrics)
        self._reconciler = Reconciler(
            self._cluster,
            self._cache,
            self._queue,
            metrics=self._metrics,
            settings=settings,
            events=self._events,
        )
        self._poller = ProgressPoller(
            self._cache, self._queue, interval_seconds=settings.progress_interval_seconds
        )
        self._stop = asyncio.Event()
        self._listed = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            OSError: the port of the metrics is taken.
        """
        # A standby knows the same jobs: they must not be counted twice.
        self._metrics.expose_jobs(lambda: self._cache.jobs() if self._leadership.held.is_set() else ())
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
        workers = [partial(self._reconciler.work, self._leadership.held)] * self._settings.concurrency
        poll = partial(self._poller.run, self._leadership.held)
        return [self._beat, self._campaign, self._sweep, poll, self._events.run, *workers]

    async def _serve(self) -> None:
        """Read the world, watch it, and begin anew when a watch is lost for good."""
        retry = _Retry()
        while not self._stop.is_set():
            # kopf takes the signals over while it runs, and gives them up when it ends.
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
            try:
                await self._until_stopped(self._cluster.check(self._settings.namespaces))
                if self._stop.is_set():
                    return
                retry.succeed()
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
        namespaces = self._settings.namespaces
        feeds = watches.Watches(
            self._cache,
            health=self._health,
            echoes=self._cluster.echoes,
            namespaces=namespaces,
            listed=self._tell_listed,
        )
        await watches.watch(feeds, cluster=self._cluster, namespaces=namespaces)

    def _tell_listed(self) -> None:
        self._health.ready = True
        self._listed.set()

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
            self._metrics["leader"].set(self._leadership.holds())
            for resource, age in self._health.ages().items():
                self._metrics["watch_age"].labels(resource).set(age)

    async def _campaign(self) -> None:
        """Stand for election with warm caches only: what leads can act at once."""
        await self._listed.wait()
        await self._election.run()

    async def _sweep(self) -> None:
        """Look for orphans whenever the world has been read as a whole."""
        while True:
            await self._listed.wait()
            await self._leadership.held.wait()
            await asyncio.sleep(COLLECTION_SECONDS)
            self._listed.clear()
            try:
                await orphans.sweep(self._cluster, self._cache)
            except errors.OperatorError as error:
                logger.warning("orphans: %s; retrying in %.0f s", error, LONGEST_RETRY_SECONDS)
                await asyncio.sleep(LONGEST_RETRY_SECONDS)
                self._listed.set()


class _Retry:
    """Growing pauses, and one line for each problem, however often it is met."""

    def __init__(self) -> None:
        self._pause = FIRST_RETRY_SECONDS
        self._said = ""

    async def wait(self, problem: str) -> None:
        if problem != self._said:
            logger.error(
                "%s; retrying every %.0f to %.0f s", problem, FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS
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
        handler.addFilter(watches.OneLine())
    try:
        settings = read_settings(os.environ)
    except InvalidSetting as error:
        logger.error("%s", error)
        sys.exit(_USAGE)
    # What was imported stays; and our objects die by their counts, so that looking for cycles is mostly vain.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    try:
        uvloop.run(_run(settings))
    except OSError as error:
        logger.error(
            "port %d of the metrics: %s; set KUBEDET_OPERATOR_METRICS_PORT", settings.metrics_port, error
        )
        sys.exit(_USAGE)
    sys.exit(0)


def _own_namespace(settings: OperatorSettings) -> str:
    """Where the Lease is, unless a setting says: the pod's namespace, else the first one that is served."""
    file = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
    if file.exists():
        return file.read_text().strip()
    return settings.namespaces[0] if settings.namespaces else "default"


async def _run(settings: OperatorSettings) -> None:
    await Operator(settings).run()


if __name__ == "__main__":
    main()
