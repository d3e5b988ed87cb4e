"""The connection to the API server: credentials, TLS, sessions, and the meaning of its answers.

The official client reads the configuration and refreshes tokens. Requests are plain dicts through our own
sessions, which takes half the CPU of its typed calls.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import orjson
from kubernetes.aio import config
from kubernetes.aio.client.configuration import Configuration

from kubedet_operator.api import names
from kubedet_operator.cluster import errors
from kubedet_operator.cluster.clock import ClusterClock
from kubedet_operator.telemetry.metrics import Metrics

REQUEST_SECONDS = 30
"""No request may hold a job longer than this."""

LEASE_SECONDS = 3
"""A request for the Lease that takes longer has failed: there must be time for another."""

CONNECT_SECONDS = 10
"""For the handshake of a watch. The watch itself has no time-out here: its reader has one."""

CONNECTIONS = 16
"""In parallel. Each costs a handshake and 0.3 MiB; with more, requests only wait at the API server."""

LONGEST_PAUSE_SECONDS = 60.0
"""However long the API server, or what is in front of it, asks to wait."""

_READS = ("get", "list", "watch")
TOKEN_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_JSON = "application/json"
_KINDS = {names.PLURAL: names.KIND, names.ZOO_PLURAL: names.ZOO_KIND}
_CONTENT = {"apply": "application/apply-patch+yaml", "patch": "application/merge-patch+json"}

_OF_THE_OBJECT = ("failed calling webhook", "should not be set on objects to be created")
"""What the API server says with code 500 about one object, although it serves others."""

Purpose = Literal["lease", "watch", "other"]
"""Each has its own session, so that neither the Lease nor a watch waits for other requests."""

_TIMEOUTS: Mapping[Purpose, aiohttp.ClientTimeout] = {
    "lease": aiohttp.ClientTimeout(total=LEASE_SECONDS),
    "watch": aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
    "other": aiohttp.ClientTimeout(total=REQUEST_SECONDS),
}


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What another HTTP client needs to talk to the same API server."""

    server: str
    ca_path: str | None
    insecure: bool
    certificate_path: str | None
    key_path: str | None
    token: str | None
    proxy: str | None


class Call(NamedTuple):
    """What a request is, for metrics and messages."""

    verb: str
    resource: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}"

    @property
    def purpose(self) -> Purpose:
        """The session that it uses."""
        if self.resource == "leases":
            return "lease"
        return "watch" if self.verb == "watch" else "other"


class Connection:
    """Requests to one API server. It connects for the first one, and again after a refused login."""

    def __init__(self, metrics: Metrics, *, may_write: Callable[[], bool]) -> None:
        self.clock = ClusterClock()
        """Set by the answers."""
        self._requests = metrics["api_requests"]
        self._may_write = may_write
        self._configuration: Configuration | None = None
        self._sessions: dict[Purpose, aiohttp.ClientSession] = {}
        self._connecting = asyncio.Lock()
        self._busy_until = 0.0

    async def credentials(self) -> Credentials:
        """The credentials of now; tokens are read again where they expire.

        Raises:
            errors.LoginFailed: there are none.
        """
        configuration = await self._configure()
        authorization = await _authorize(configuration)
        return Credentials(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            insecure=not configuration.verify_ssl,
            certificate_path=configuration.cert_file,
            key_path=configuration.key_file,
            token=authorization.split()[-1] if authorization else None,
            proxy=configuration.proxy,
        )

    async def request(
        self,
        method: str,
        path: str,
        call: Call,
        body: Mapping[str, Any] | None = None,
        *,
        accept: str = _JSON,
    ) -> dict[str, Any]:
        """The document that the API server answers with.

        Raises:
            errors.OperatorError: the request was kept back, refused or not answered.
        """
        async with self.open(method, path, call, body, accept=accept) as response:
            answer = await response.read()
        try:
            document: dict[str, Any] = orjson.loads(answer)
        except orjson.JSONDecodeError as error:
            raise errors.Unreadable(f"{call}: the API server's answer cannot be read: {error}") from None
        return document

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        call: Call,
        body: Mapping[str, Any] | None = None,
        *,
        accept: str = _JSON,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response to a request that succeeded, to be read within the block.

        Raises:
            errors.OperatorError: as for `request`; also within the block, if the connection breaks.
        """
        self._check_turn(call)
        configuration = await self._configure()
        headers = {"Accept": accept, "Content-Type": _CONTENT.get(call.verb, _JSON)}
        if authorization := await _authorize(configuration):
            headers["Authorization"] = authorization
        code = 0
        try:
            async with self._session(configuration, call.purpose).request(
                method,
                f"{configuration.host.rstrip('/')}/{path}",
                data=orjson.dumps(body) if body is not None else None,
                headers=headers,
                proxy=configuration.proxy,
                server_hostname=configuration.tls_server_name,
                timeout=_TIMEOUTS[call.purpose],
            ) as response:
                code = response.status
                self.clock.note(response.headers.get("Date"))
                if code >= 300:
                    raise await self._refuse(response, call, configuration.host)
                yield response
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise errors.ApiUnreachable(
                f"the API server {configuration.host} does not answer: {_cause(error)}"
            ) from error
        finally:
            self._requests.labels(call.verb, call.resource, str(code)).inc()

    async def close(self) -> None:
        """Close the connections."""
        sessions, self._sessions, self._configuration = self._sessions, {}, None
        for session in sessions.values():
            await session.close()

    async def _refuse(self, response: aiohttp.ClientResponse, call: Call, host: str) -> errors.OperatorError:
        """The error for a refused request; it also applies to later requests: log in again, or wait."""
        text = (await response.read()).decode(errors="replace")
        problem = _error(response.status, text, host, call, response.headers)
        if isinstance(problem, errors.LoginFailed):
            await self.close()  # the next request reads the credentials again
        if isinstance(problem, errors.ApiBusy):
            self._busy_until = max(self._busy_until, time.monotonic() + problem.retry_after_seconds)
        return problem

    def _check_turn(self, call: Call) -> None:
        """Keep back what must not be sent now: writes of a standby, anything while we were asked to wait."""
        if call.purpose == "lease":
            return
        if call.verb not in _READS and not self._may_write():
            raise errors.NotLeading("another replica leads")
        wait = self._busy_until - time.monotonic()
        if wait > 0:
            raise errors.Paused(
                f"the API server asks to wait {wait:.1f} s before the next request", retry_after_seconds=wait
            )

    async def _configure(self) -> Configuration:
        async with self._connecting:
            if self._configuration is None:
                self._configuration = await _load_configuration()
            return self._configuration

    def _session(self, configuration: Configuration, purpose: Purpose) -> aiohttp.ClientSession:
        if purpose not in self._sessions:
            # A watch holds its connection while it lasts, so their number is not limited (0).
            limit = 0 if purpose == "watch" else CONNECTIONS
            connector = aiohttp.TCPConnector(ssl=_build_tls(configuration), limit=limit)
            # trust_env would read netrc and the proxy variables in a thread for every request.
            self._sessions[purpose] = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
            )
        return self._sessions[purpose]


def _build_tls(configuration: Configuration) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def _authorize(configuration: Configuration) -> str | None:
    """The Authorization header; None if a certificate is used instead."""
    header: str | None = await configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
    return header


async def _load_configuration() -> Configuration:
    configuration = Configuration()
    try:
        if TOKEN_FILE.exists() and "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=configuration)
        else:
            await config.load_kube_config(client_configuration=configuration)
    except (config.ConfigException, OSError) as error:
        raise errors.LoginFailed(
            f"cannot find the API server: not in a pod, and no usable kubeconfig ({_cause(error)}); "
            "set KUBECONFIG to its path"
        ) from error
    if configuration.proxy is None:
        target = urlsplit(configuration.host)
        if not urllib.request.proxy_bypass(target.hostname or ""):
            configuration.proxy = urllib.request.getproxies().get(target.scheme)
    return configuration


def _cause(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _error(code: int, answer: str, host: str, call: Call, headers: Mapping[str, str]) -> errors.OperatorError:
    """The error that a status code of the API server means."""
    said = _said(answer)
    if code == 401:
        return errors.LoginFailed(f"the API server {host} refuses the operator's credentials: {said}")
    # Admission (quota, Pod Security) answers 403 as well; the authoriser's own words say who cannot do what.
    if code == 403 and "cannot" in said and 'resource "' in said:
        return errors.PermissionMissing(f"{said}; apply manifests/install.yaml or upgrade the chart")
    if code == 404 and call.verb == "list" and call.resource in _KINDS:
        return errors.DefinitionMissing(
            f"the API server {host} knows no {_KINDS[call.resource]}s: apply manifests/crds "
            "(`kubedet crds` prints them)"
        )
    if code == 404 and call.resource == "podgroups":
        return errors.Rejected(f"{call}: {said}; spec.schedulingPolicy.gang names a scheduler that is absent")
    if code == 429:
        seconds = headers.get("Retry-After", "1")
        return errors.ApiBusy(
            f"the API server {host} is busy: {said}",
            retry_after_seconds=min(float(seconds), LONGEST_PAUSE_SECONDS) if seconds.isdecimal() else 1.0,
        )
    if code == 500 and any(word in said for word in _OF_THE_OBJECT):
        return errors.Rejected(f"{call}: {said}")
    if code >= 500:
        return errors.ApiUnreachable(f"the API server {host} cannot serve {call}: {code} {said}")
    meaning = {404: errors.NotFound, 409: errors.Conflict, 410: errors.Gone}.get(code, errors.Rejected)
    return meaning(f"{call}: {said}")


def _said(answer: str) -> str:
    """The message of a Status object, or the answer as it is."""
    try:
        message = orjson.loads(answer).get("message", answer)
    except (ValueError, AttributeError):
        message = answer
    return " ".join(str(message).split())[:2000]
