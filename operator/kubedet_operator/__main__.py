"""The operator's process: its parts, and kopf, which starts and stops them."""

from __future__ import annotations

import asyncio
import base64
import errno
import gc
import json
import logging
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import NoReturn

import uvloop

from kubedet_operator.api import names
from kubedet_operator.cluster import orphans
from kubedet_operator.cluster.cache import Cache, Key
from kubedet_operator.cluster.client import Cluster
from kubedet_operator.cluster.connection import TOKEN_FILE
from kubedet_operator.cluster.events import Events
from kubedet_operator.cluster.kopf_operator import Handlers, KopfOperator, configure_logs
from kubedet_operator.cluster.lease import Election, Leadership
from kubedet_operator.cluster.watches import Watches
from kubedet_operator.control.progress import ProgressPoller
from kubedet_operator.control.reconcile import GATHER_SECONDS, Reconciler
from kubedet_operator.control.supervision import supervise
from kubedet_operator.control.workqueue import WorkQueue
from kubedet_operator.control.zoos import ZooReconciler
from kubedet_operator.settings import InvalidSetting, OperatorSettings, read_settings
from kubedet_operator.telemetry import endpoint
from kubedet_operator.telemetry.health import EVENTS, PROGRESS, RECONCILIATION, ZOOS, Health
from kubedet_operator.telemetry.metrics import Metrics

logger = logging.getLogger("kubedet_operator")

ZOO_CONCURRENCY = 2
"""Zoos that are reconciled in parallel; their jobs are created in parallel anyway."""

RESTART_SECONDS = 5.0
"""The pause before kopf starts again after an error has ended it."""

_USAGE = 2


class Operator:
    """All parts of the process, and when they run."""

    def __init__(self, settings: OperatorSettings) -> None:
        self._settings = settings
        self._health = Health()
        self._metrics = Metrics()
        self._queue: WorkQueue[Key] = WorkQueue()
        self._zoo_queue: WorkQueue[Key] = WorkQueue()
        self._cache = Cache(
            self._queue.add,
            lambda key: self._queue.add_after(key, GATHER_SECONDS),
            lambda key: self._zoo_queue.add_after(key, GATHER_SECONDS),
            unreadable=lambda plural: self._metrics["unreadable"].labels(plural).inc(),
        )
        self._leadership = Leadership()
        self._cluster = Cluster(self._metrics, may_write=self._leadership.holds)
        self._election = Election(
            self._cluster,
            self._leadership,
            namespace=settings.lease_namespace or _own_namespace(settings),
            name=names.LEASE,
            identity=f"{socket.gethostname()}_{uuid.uuid4()}",
        )
        self._watches = Watches(
            self._cluster,
            self._cache,
            self._health,
            namespaces=settings.namespaces,
            restart_kopf=lambda: self._kopf.stop(),
        )
        self._events = Events(self._cluster, metrics=self._metrics, health=self._health)
        self._reconciler = Reconciler(
            self._cluster,
            self._cache,
            self._queue,
            metrics=self._metrics,
            health=self._health,
            settings=settings,
            events=self._events,
            clock=self._cluster.clock.now,
        )
        self._zoo_reconciler = ZooReconciler(
            self._cluster,
            self._cache,
            self._zoo_queue,
            metrics=self._metrics,
            health=self._health,
            events=self._events,
            settings=settings,
            clock=self._cluster.clock.now,
        )
        self._poller = ProgressPoller(
            self._cache,
            self._queue,
            health=self._health,
            interval_seconds=settings.progress_interval_seconds,
            clock=self._cluster.clock.now,
        )
        self._kopf = self._build_kopf()
        self._stopped = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def _build_kopf(self) -> KopfOperator:
        handlers = Handlers(
            login=self._cluster.credentials,
            start=self._start,
            end=self._end,
            hear=self._watches.hear,
            complaint=self._complain,
        )
        settings = self._settings
        return KopfOperator(handlers, namespaces=settings.namespaces, health_port=settings.health_port)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            OSError: a port is taken.
        """
        # A standby knows the same jobs: they must not be counted twice.
        leads = self._leadership.held.is_set
        self._metrics.expose(
            jobs=lambda: self._cache.jobs() if leads() else (),
            zoos=lambda: self._cache.zoos.zoos() if leads() else (),
            clock=self._cluster.clock.now,
        )
        server = endpoint.serve(self._settings.metrics_port, metrics=self._metrics, health=self._health)
        logger.info("metrics on port %d, health on port %d", server.server_port, self._settings.health_port)
        try:
            await self._run_kopf()
        finally:
            await self._cluster.close()
            server.shutdown()
            server.server_close()

    async def _run_kopf(self) -> None:
        """Run kopf, and again if it must look for the CRD once more or an error has ended it."""
        goes_on = True
        while goes_on and not self._stopped.is_set():
            problem = ""
            try:
                goes_on = await self._kopf.run()
            except Exception as error:
                if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                    raise
                problem = " ".join(str(error).split()) or type(error).__name__
            self._take_signals()
            if problem:
                logger.error("kopf has ended: %s; starting it again in %.0f s", problem, RESTART_SECONDS)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopped.wait(), RESTART_SECONDS)

    def _take_signals(self) -> None:
        """Handle signals while kopf, which handles them itself, does not run."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stopped.set)

    def _complain(self) -> str | None:
        complaint = self._health.complaint()
        if complaint:
            logger.error("the liveness probe fails: %s", complaint)
        return complaint

    async def _start(self) -> None:
        self._tasks = [
            asyncio.create_task(supervise(task, run, metrics=self._metrics, health=self._health))
            for task, run in self._parts()
        ]

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _parts(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """The background tasks, by the names that log, metrics and probe show."""
        leads = self._leadership.held
        sweep = partial(orphans.sweep_after_lists, self._cluster, self._cache, self._watches.listed, leads)
        return [
            ("watches", self._watches.run),
            ("gauges", self._measure),
            ("election", self._campaign),
            ("orphans", sweep),
            (PROGRESS, partial(self._poller.run, leads)),
            (EVENTS, self._events.run),
            *[(RECONCILIATION, partial(self._reconciler.work, leads))] * self._settings.concurrency,
            *[(ZOOS, partial(self._zoo_reconciler.work, leads))] * ZOO_CONCURRENCY,
        ]

    async def _measure(self) -> None:
        """Measure the lag of the event loop, and read the gauges."""
        pause = 1.0
        while True:
            due = time.monotonic() + pause
            await asyncio.sleep(pause)
            self._metrics["event_loop_lag"].set(max(time.monotonic() - due, 0.0))
            self._metrics["queue_depth"].set(len(self._queue))
            self._metrics["leader"].set(self._leadership.holds())
            for resource, age in self._health.ages().items():
                self._metrics["watch_age"].labels(resource).set(age)

    async def _campaign(self) -> None:
        """Stand for election with warm caches only: what leads can act at once."""
        await self._watches.listed.wait()
        await self._election.run()


def main() -> NoReturn:
    """Run the operator with the settings of the environment, and exit."""
    configure_logs(for_people=sys.stderr.isatty())
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
            "ports %d (metrics) and %d (health): %s; set KUBEDET_OPERATOR_METRICS_PORT or _HEALTH_PORT",
            settings.metrics_port,
            settings.health_port,
            error,
        )
        sys.exit(_USAGE)
    sys.exit(0)


def _own_account() -> str:
    """The service account that the process's token names; empty if it has no token."""
    try:
        payload = TOKEN_FILE.read_text().split(".")[1]
        subject = json.loads(base64.urlsafe_b64decode(payload + "=="))["sub"]
    except (OSError, ValueError, LookupError):
        return ""
    return str(subject).removeprefix("system:serviceaccount:").replace(":", "/")


def _own_namespace(settings: OperatorSettings) -> str:
    """Where the Lease is, unless a setting says: the pod's namespace, else the first one that is served."""
    file = TOKEN_FILE.with_name("namespace")
    if file.exists():
        return file.read_text().strip()
    return settings.namespaces[0] if settings.namespaces else "default"


async def _run(settings: OperatorSettings) -> None:
    account = settings.service_account or _own_account()
    await Operator(replace(settings, service_account=account)).run()


if __name__ == "__main__":
    main()
