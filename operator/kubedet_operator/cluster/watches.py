"""Where kopf's watches end: they feed the cache, which names the jobs to look at. No logic is here."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import kopf
import orjson
from kopf._cogs.clients import api, watching
from kopf._core.reactor import queueing

from kubedet_operator.api import names
from kubedet_operator.cluster.cache import Cache
from kubedet_operator.cluster.client import Cluster
from kubedet_operator.cluster.echoes import Echoes
from kubedet_operator.telemetry.health import Health

logger = logging.getLogger(__name__)

GUARD_SECONDS = 2.0
"""How often a watch is looked after."""

SERVER_SECONDS = 10
"""The API server ends every watch after this, and it goes on where it was: none stays silent for long."""

CHILDREN = ("pods", "services")
"""What is watched beside jobs."""

Stream = tuple[str, str | None]
"""Plural and namespace; None: the whole cluster."""


class Watches:
    """The events of kopf's streams on their way into the cache.

    kopf lists, watches and begins anew; but for each event it would start a task, wrap the object and run
    its handlers with retries, which takes five times the CPU of all we do with one. So its watcher, which
    begins all that, is replaced while kopf runs: events are taken from the stream at once and in order. So is
    the parser of its JSON.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        health: Health,
        echoes: Echoes,
        namespaces: tuple[str, ...],
        listed: Callable[[], None],
    ) -> None:
        self._cache = cache
        self._echoes = echoes
        self._health = health
        self._num_streams = (1 + len(CHILDREN)) * max(len(namespaces), 1)
        self._tell_listed = listed
        self._complete: set[Stream] = set()
        self._known_before: dict[Stream, set[str]] = {}
        self._streams: dict[asyncio.Task[Any] | None, Stream] = {}

    async def follow(
        self,
        *,
        settings: kopf.OperatorSettings,
        resource: Any,
        namespace: Any,
        **_: Any,
    ) -> None:
        """Feed the cache from one stream, for ever: kopf's `watcher`, for jobs and their children.

        A stream that keeps back what we have written is begun anew, from a list: where silence is frequent,
        resuming it never catches up.
        """
        while True:
            feeding = asyncio.create_task(self._feed(settings, resource, namespace))
            try:
                while not feeding.done():
                    await asyncio.wait({feeding}, timeout=GUARD_SECONDS)
                    if self._echoes.is_overdue(resource.plural, namespace):
                        break
                else:
                    return feeding.result()
            finally:
                self._streams.pop(feeding, None)
                feeding.cancel()
                await asyncio.wait({feeding}, timeout=1)
            logger.warning("the watch of %s has gone silent; it is begun anew", resource.plural)

    async def _feed(self, settings: kopf.OperatorSettings, resource: Any, namespace: Any) -> None:
        stream: Stream = (resource.plural, namespace)
        self._streams[asyncio.current_task()] = stream
        self._echoes.forget(*stream)
        seen: set[str] = set()
        events = watching.infinite_watch(settings=settings, resource=resource, namespace=namespace)
        async for event in events:
            self._health.watched_at[stream] = time.monotonic()
            if event is watching.Bookmark.LISTED:
                self._end_list(stream, seen)
                seen = set()
            elif isinstance(event, Mapping) and event["type"] != "BOOKMARK":
                if event["type"] is None:  # part of a list
                    seen.add(event["object"]["metadata"]["uid"])
                self._take(resource.plural, event["type"], event["object"])

    def begin(self, resource: Any) -> None:
        """Note what is known before a list, and the sign of life: called when a list or a watch begins."""
        stream = self._streams.get(asyncio.current_task())
        if stream is not None and stream[0] == resource.plural:
            self._health.watched_at[stream] = time.monotonic()
            self._known_before[stream] = self._cache.uids()

    def _end_list(self, stream: Stream, seen: set[str]) -> None:
        plural, namespace = stream
        sweeps = {"pods": self._cache.sweep_pods, "services": self._cache.sweep_services}
        sweep = sweeps.get(plural, self._cache.sweep_jobs)
        sweep(namespace, listed=seen, known_before=self._known_before.get(stream, set()))
        self._complete.add(stream)
        if len(self._complete) == self._num_streams:
            self._tell_listed()

    def _take(self, plural: str, change: str | None, manifest: Mapping[str, Any]) -> None:
        metadata = manifest["metadata"]
        self._echoes.saw(plural, metadata)
        uid, is_gone = metadata["uid"], change == "DELETED"
        if plural == names.PLURAL:
            if is_gone:
                self._cache.drop_job((metadata["namespace"], metadata["name"]), uid=uid)
            else:
                self._cache.store_job(manifest)
            return
        key = (metadata["namespace"], (metadata.get("labels") or {}).get(names.JOB_NAME, ""))
        if plural == "services":
            if is_gone:
                self._cache.drop_service(key, uid=uid)
            else:
                self._cache.store_service(manifest)
        elif is_gone:
            self._cache.drop_pod(key, metadata["name"], uid=uid)
        else:
            self._cache.store_pod(manifest)


async def watch(watches: Watches, *, cluster: Cluster, namespaces: tuple[str, ...]) -> None:
    """Run kopf until a signal; errors of its watches come out of it."""
    original = queueing.watcher, api.json  # type: ignore[attr-defined]
    queueing.watcher, api.json = watches.follow, orjson  # type: ignore[attr-defined]
    try:
        await kopf.operator(
            registry=build_registry(cluster),
            settings=configure(watches.begin),
            standalone=True,
            clusterwide=not namespaces,
            namespaces=namespaces,
        )
    finally:
        queueing.watcher, api.json = original  # type: ignore[attr-defined]


def build_registry(cluster: Cluster) -> kopf.OperatorRegistry:
    """The login, and what is to be watched."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        credentials = await cluster.credentials()
        return kopf.ConnectionInfo(
            server=credentials.server,
            ca_path=credentials.ca_path,
            insecure=credentials.insecure,
            certificate_path=credentials.certificate_path,
            private_key_path=credentials.key_path,
            token=credentials.token,
            proxy_url=credentials.proxy,
        )

    @kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, registry=registry)
    @kopf.on.event("", "v1", "pods", registry=registry)
    @kopf.on.event("", "v1", "services", registry=registry)
    async def seen(**_: Any) -> None:
        """Tells kopf what to watch. `Watches` takes the events before they get here."""

    return registry


def configure(begin: Callable[[Any], None]) -> kopf.OperatorSettings:
    """The settings of kopf: bounded in time, silent in the cluster, nothing kept on objects.

    `begin` is called with the resource when a list or a watch is about to begin, again too.
    """
    settings = kopf.OperatorSettings()
    settings.watching.server_timeout = SERVER_SECONDS
    settings.watching.client_timeout = SERVER_SECONDS + 10
    # The API server sends a bookmark just before the end; a watch that is more silent goes on as a new one.
    settings.watching.inactivity_timeout = SERVER_SECONDS + 5
    settings.watching.reconnect_backoff = 1
    # Of lists: larger ones are not faster, and what one of them takes is never given back.
    settings.watching.chunk_size = 100

    def select(resource: Any) -> bool:
        # kopf asks for the selectors whenever it starts a list or a watch. This one matches nothing.
        begin(resource)
        return False

    settings.watching.label_selectors[select] = ""
    for plural in CHILDREN:
        settings.watching.label_selectors["", "v1", plural] = names.children_selector()
    settings.networking.request_timeout = 30
    settings.networking.enforce_retry_after = True
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.persistence.finalizer = f"{names.GROUP}/cleanup"
    # It would kill this process some seconds after watches have ended, though they run again by then.
    settings.process.ultimate_exiting_timeout = None
    # No handler needs to know of new kinds or namespaces, nor the right to list them.
    settings.scanning.disabled = True
    return settings


_LIFECYCLE = "kopf._core.reactor.running"
"""Where kopf says that it ends, and why."""


class OneLine(logging.Filter):
    """Thins kopf's log: nothing about each event, no stack traces of the network, one line for an outage."""

    def __init__(self, *, quiet_seconds: float = 60) -> None:
        super().__init__()
        self._quiet_seconds = quiet_seconds
        self._said_at = -quiet_seconds

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is worth a line, which is made a clear one."""
        if not record.name.startswith("kopf"):
            return True
        if record.levelno < logging.WARNING:
            return record.name == _LIFECYCLE
        if isinstance(record.exc_info, tuple) and _is_about_the_api(record.exc_info[1]):
            return False  # whoever runs kopf says it, with the remedy
        text = record.getMessage()
        if not text.startswith("Request attempt"):
            return True
        now = time.monotonic()
        if now - self._said_at < self._quiet_seconds:
            return False
        self._said_at = now
        quoted = re.findall(r'"([^"]+)"', text)
        cause = quoted[-1] if quoted else text.rpartition(" -> ")[2]
        record.msg = f"the API server does not serve the watches: {cause}; tried again until it does"
        record.args = ()
        return True


def _is_about_the_api(error: BaseException | None) -> bool:
    """Whether an error is the API server's or the network's, not kopf's own."""
    return isinstance(error, OSError) or type(error).__module__.startswith(("kopf._cogs", "aiohttp"))
