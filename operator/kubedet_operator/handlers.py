"""Where kopf's watches end: they feed the cache, which names the jobs to look at. No logic is here."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import kopf

from kubedet_operator.api import names
from kubedet_operator.cache import Cache
from kubedet_operator.cluster import Cluster
from kubedet_operator.metrics import Health

SERVER_SECONDS = 300
"""The API server ends every watch after this, and it is renewed: no watch stays silent for ever."""


class NoDiffBase(kopf.DiffBaseStorage):
    """Keeps kopf from copying and comparing every object for handlers that we do not have."""

    def build(self, **_: Any) -> Any:
        """The part of an object that is compared: none."""
        return {}

    def fetch(self, **_: Any) -> Any:
        """The part that was compared last: none."""
        return None

    def store(self, **_: Any) -> None:
        """Remember nothing."""


def build_registry(cache: Cache, *, cluster: Cluster, health: Health) -> kopf.OperatorRegistry:
    """The handlers of the watches and of the login."""
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
    async def job_changed(event: Mapping[str, Any], **_: Any) -> None:
        health.watched_at[names.PLURAL] = time.monotonic()
        job = event["object"]
        if event["type"] == "DELETED":
            metadata = job["metadata"]
            cache.drop_job((metadata["namespace"], metadata["name"]), uid=metadata["uid"])
        else:
            cache.store_job(job)

    @kopf.on.event("", "v1", "pods", registry=registry)
    async def pod_changed(event: Mapping[str, Any], **_: Any) -> None:
        health.watched_at["pods"] = time.monotonic()
        pod = event["object"]
        metadata = pod["metadata"]
        job = (metadata.get("labels") or {}).get(names.JOB_NAME)
        if event["type"] == "DELETED" and job:
            cache.drop_pod((metadata["namespace"], job), metadata["name"], uid=metadata["uid"])
        else:
            cache.store_pod(pod)

    return registry


def configure(health: Health, *, watch_begins: Callable[[], None]) -> kopf.OperatorSettings:
    """The settings of kopf: bounded in time and number, silent in the cluster, nothing kept on objects.

    `watch_begins` is called when a list or a watch is about to begin, again too.
    """
    settings = kopf.OperatorSettings()
    settings.watching.server_timeout = SERVER_SECONDS
    settings.watching.client_timeout = SERVER_SECONDS + 30
    settings.watching.inactivity_timeout = 70
    settings.watching.reconnect_backoff = 1
    settings.watching.chunk_size = 500

    def beat(resource: Any) -> bool:
        # kopf asks for the selectors whenever it starts a list or a watch: a sign of life even where no
        # event comes for hours. The selector itself matches nothing.
        if resource.plural in (names.PLURAL, "pods"):
            health.watched_at[resource.plural] = time.monotonic()
            watch_begins()
        return False

    settings.watching.label_selectors[beat] = ""
    settings.watching.label_selectors["", "v1", "pods"] = names.children_selector()
    settings.queueing.worker_limit = 64
    # A worker is kept for an object this long; our handlers are instant, and 64 must do for thousands.
    settings.queueing.idle_timeout = 0.1
    settings.networking.request_timeout = 30
    settings.networking.enforce_retry_after = True
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.persistence.finalizer = f"{names.GROUP}/cleanup"
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.process.ultimate_exiting_timeout = 30
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
