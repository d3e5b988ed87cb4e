"""kopf, through its public API. No other module imports it.

kopf logs in, watches DetectionJobs, starts and stops our tasks, handles signals and answers the liveness
probe. It writes nothing to the cluster: none of our handlers compares objects, retries or needs a finalizer.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import kopf

from kubedet_operator.api import names
from kubedet_operator.cluster import errors
from kubedet_operator.cluster.connection import Credentials

logger = logging.getLogger(__name__)

HEALTH_PATH = "/healthz"

RENEWAL_SECONDS = 10
"""The API server ends each watch after this time, and the next one resumes: none is silent for long."""

LOGIN_SECONDS = 5.0
"""Between two attempts to log in."""


@dataclass(frozen=True, kw_only=True)
class Handlers:
    """What kopf calls."""

    login: Callable[[], Awaitable[Credentials]]
    start: Callable[[], Awaitable[None]]
    """Called before kopf watches anything."""
    end: Callable[[], Awaitable[None]]
    """Called after kopf has stopped watching."""
    hear: Callable[[str | None, dict[str, Any]], None]
    """Called for every event of a DetectionJob with its type (None: part of a list) and the object."""
    complaint: Callable[[], str | None]
    """The problem that a restart of the process would fix, or None."""


class _Backoffs(Iterable[float]):
    """Endless pauses between attempts of one request: kopf waits until the API server is back."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((1.0, 2.0, 3.0), itertools.repeat(5.0))


class _NoState(kopf.DiffBaseStorage):
    """Stores no state of objects: no handler compares them, and copies cost a third more CPU."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


class KopfOperator:
    """Runs kopf with our handlers in some namespaces, or in all (none given)."""

    def __init__(self, handlers: Handlers, *, namespaces: tuple[str, ...], health_port: int | None) -> None:
        """Without a port, the liveness probe is not served."""
        self._handlers = handlers
        self._namespaces = namespaces
        self._health_port = health_port
        self._flag = asyncio.Event()
        self._is_stopped = False

    async def run(self) -> bool:
        """Run until a signal comes or `stop` is called, and return whether `stop` was called.

        Raises:
            OSError: the port of the probe is taken.
            Exception: an error has ended kopf.
        """
        self._flag.clear()
        self._is_stopped = False
        address = f"http://0.0.0.0:{self._health_port}{HEALTH_PATH}"
        await kopf.operator(
            registry=self._register(),
            settings=_configure(),
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            liveness_endpoint=address if self._health_port else None,
            stop_flag=self._flag,
        )
        return self._is_stopped

    def stop(self) -> None:
        """End `run`."""
        self._is_stopped = True
        self._flag.set()

    def _register(self) -> kopf.OperatorRegistry:
        registry, handlers = kopf.OperatorRegistry(), self._handlers

        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> kopf.ConnectionInfo:
            try:
                credentials = await handlers.login()
            except errors.OperatorError as error:
                raise kopf.TemporaryError(str(error), delay=LOGIN_SECONDS) from error
            return kopf.ConnectionInfo(
                server=credentials.server,
                ca_path=credentials.ca_path,
                insecure=credentials.insecure,
                certificate_path=credentials.certificate_path,
                private_key_path=credentials.key_path,
                token=credentials.token,
                proxy_url=credentials.proxy,
            )

        @kopf.on.startup(registry=registry)
        async def start(**_: Any) -> None:
            await handlers.start()

        @kopf.on.cleanup(registry=registry)
        async def end(**_: Any) -> None:
            self._flag.set()  # kopf waits 5 s for its own task that waits for the flag
            await handlers.end()

        @kopf.on.probe(registry=registry)
        async def health(**_: Any) -> str:
            if complaint := handlers.complaint():
                raise kopf.PermanentError(complaint)
            return "ok"

        @kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, registry=registry)
        async def hear(event: kopf.RawEvent, **_: Any) -> None:
            try:
                handlers.hear(event["type"], dict(event["object"]))
            except Exception:  # kopf would ignore it
                logger.exception("this is a bug of the operator: an event is lost until the next list")

        return registry


def configure_logs(*, for_people: bool) -> None:
    """Log lines for people, or JSON. kopf and its web server log nothing: our parts report their problems."""
    kopf.configure(log_format=kopf.LogFormat.FULL if for_people else kopf.LogFormat.JSON)
    # `Outages` logs an outage, the operator a failed probe, and whatever ends kopf is raised.
    logging.getLogger("kopf").setLevel(logging.CRITICAL)
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)


def _configure() -> kopf.OperatorSettings:
    """Bounded in time, patient with the API server, and nothing is written to the cluster."""
    settings = kopf.OperatorSettings()
    settings.watching.server_timeout = RENEWAL_SECONDS
    settings.watching.client_timeout = RENEWAL_SECONDS + 5
    # The API server sends a bookmark just before it ends a watch. Without it, the watch was silent.
    settings.watching.inactivity_timeout = RENEWAL_SECONDS + 5
    settings.watching.reconnect_backoff = 1
    settings.watching.chunk_size = 100
    settings.networking.request_timeout = 30
    settings.networking.enforce_retry_after = True
    settings.networking.error_backoffs = _Backoffs()
    # Each object that changes has a task for this time; 5 s would take 40 KiB for each job of a burst.
    settings.queueing.idle_timeout = 1
    settings.posting.enabled = False
    settings.persistence.finalizer = f"{names.GROUP}/cleanup"
    settings.persistence.diffbase_storage = _NoState()
    # It would kill this process some time after kopf has ended, although kopf may run again by then.
    settings.process.ultimate_exiting_timeout = None
    # We need no news of kinds and namespaces, and have no right to list them.
    settings.scanning.disabled = True
    return settings
