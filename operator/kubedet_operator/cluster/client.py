"""The only client of the API server: everything that is read and written beside kopf's watches.

Configuration, TLS and the refresh of tokens come from the official client; the requests are plain dicts
through its own session, which costs half the CPU of its typed calls.
"""

from __future__ import annotations

import asyncio
import os
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import aiohttp
import orjson
from kubernetes.aio import config
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject

from kubedet_operator.api import names
from kubedet_operator.cluster import errors
from kubedet_operator.cluster.echoes import Echoes
from kubedet_operator.telemetry.metrics import Metrics

REQUEST_SECONDS = 30
"""No request may hold a job longer than this."""

CONNECTIONS = 16
"""At once. Each costs a handshake and 0.3 MiB; with more of them requests only wait at the API server."""

LEASE_SECONDS = 3
"""A request for the Lease that takes longer has failed: there must be time for another."""

JOBS = f"apis/{names.API_VERSION}"
CORE = "api/v1"
LEASES = "apis/coordination.k8s.io/v1"
_READS = ("get", "list")
_TOKEN_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/token"


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


_BRIEF = {Call("update", names.PLURAL), Call("create", "pods")}
"""Writes whose answer tells no more than was sent, but for the metadata: the rest is not asked for."""

_ECHOED = {*_BRIEF, Call("create", "services")}
"""Writes that a watch shows; those that may change nothing are not among them."""

_JSON = "application/json"
_METADATA_ONLY = f"{_JSON};as=PartialObjectMetadata;g=meta.k8s.io;v=v1"

_CONTENT = {"apply": "application/apply-patch+yaml", "patch": "application/merge-patch+json"}
_TIMEOUT = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
_TIMEOUTS = {"leases": aiohttp.ClientTimeout(total=LEASE_SECONDS)}


class Cluster:
    """One connection to the API server; made at the first request, and again after a refused login."""

    def __init__(self, metrics: Metrics, *, may_write: Callable[[], bool] = lambda: True) -> None:
        """`may_write` is asked before every write, but for that of the Lease: whether this process acts."""
        self._requests = metrics["api_requests"]
        self._configuration: Configuration | None = None
        self._clients: dict[bool, RESTClientObject] = {}
        """One for the Lease alone, whose renewal must not wait for other requests, and one for the rest."""
        self._connecting = asyncio.Lock()
        self._busy_until = 0.0
        self.echoes = Echoes()
        """Writes of what is watched, which the watches have yet to show."""
        self._may_write = may_write

    async def credentials(self) -> Credentials:
        """The credentials of now; tokens are read again where they expire.

        Raises:
            errors.LoginFailed: there are none.
        """
        configuration = await self._configure()
        authorization = await configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        return Credentials(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            insecure=not configuration.verify_ssl,
            certificate_path=configuration.cert_file,
            key_path=configuration.key_file,
            token=authorization.split()[-1] if authorization else None,
            proxy=configuration.proxy,
        )

    async def check(self, namespaces: Iterable[str]) -> None:
        """Return if jobs and their children of `namespaces` can be read.

        Raises:
            errors.OperatorError: they cannot, and this is why.
        """
        for namespace in tuple(namespaces) or (None,):
            for api, plural in ((JOBS, names.PLURAL), (CORE, "pods"), (CORE, "services")):
                await self._request("GET", f"{_path(api, namespace, plural)}?limit=1", Call("list", plural))

    async def read_job(self, namespace: str, name: str) -> dict[str, Any]:
        """One DetectionJob, as it is now."""
        path = _path(JOBS, namespace, names.PLURAL, name)
        return await self._request("GET", path, Call("get", names.PLURAL))

    async def create(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Create a child that is most likely missing, and return it; one that is there is repaired.

        It costs the API server two thirds of what server-side apply does.
        """
        path, plural = _locate(manifest)
        query = urlencode({"fieldManager": names.FIELD_MANAGER})
        try:
            return await self._request("POST", f"{path}?{query}", Call("create", plural), manifest)
        except errors.Conflict:
            return await self.apply(manifest)

    async def apply(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Create or repair a child by server-side apply, and return it as it is then."""
        path, plural = _locate(manifest)
        query = urlencode({"fieldManager": names.FIELD_MANAGER, "force": "true"})
        target = f"{path}/{manifest['metadata']['name']}?{query}"
        return await self._request("PATCH", target, Call("apply", plural), manifest)

    async def write_status(self, job: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, Any]:
        """Replace the status of `job`, if nobody has changed the job since it was read.

        It costs the API server half of what a patch does.

        Raises:
            errors.Conflict: somebody has.
        """
        metadata = job["metadata"]
        kept = ("name", "namespace", "uid", "resourceVersion")
        body = {**job, "metadata": {field: metadata[field] for field in kept}, "status": status}
        path = _path(JOBS, metadata["namespace"], names.PLURAL, metadata["name"])
        query = urlencode({"fieldManager": names.FIELD_MANAGER})
        return await self._request("PUT", f"{path}/status?{query}", Call("update", names.PLURAL), body)

    async def delete(self, plural: str, namespace: str, name: str, *, uid: str, force: bool = False) -> None:
        """Delete this very object; one that is gone already, or has been replaced, is as good as deleted.

        What it owns goes after it. With `force`, a pod goes without waiting for its node to end it.
        """
        options: dict[str, Any] = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        if force:
            options["gracePeriodSeconds"] = 0
        path = _path(JOBS if plural == names.PLURAL else CORE, namespace, plural, name)
        body = {"apiVersion": "v1", "kind": "DeleteOptions", **options}
        try:
            await self._request("DELETE", path, Call("delete", plural), body)
        except errors.NotFound:
            return
        except errors.Conflict as conflict:
            # Any other conflict is with a write that came in between: the object is still there.
            if "Precondition failed" not in str(conflict):
                raise

    async def read_lease(self, namespace: str, name: str) -> dict[str, Any]:
        """A Lease, as it is now."""
        return await self._request("GET", _path(LEASES, namespace, "leases", name), Call("get", "leases"))

    async def write_lease(self, lease: Mapping[str, Any]) -> dict[str, Any]:
        """Create a Lease without a resource version; replace the one that has it.

        Raises:
            errors.Conflict: somebody was faster.
        """
        metadata = lease["metadata"]
        path = _path(LEASES, metadata["namespace"], "leases")
        if "resourceVersion" not in metadata:
            return await self._request("POST", path, Call("create", "leases"), lease)
        return await self._request("PUT", f"{path}/{metadata['name']}", Call("update", "leases"), lease)

    async def write_event(self, event: Mapping[str, Any]) -> None:
        """Create an Event."""
        path = _path(CORE, event["metadata"]["namespace"], "events")
        await self._request("POST", path, Call("create", "events"), event)

    async def repeat_event(self, namespace: str, name: str, change: Mapping[str, Any]) -> None:
        """Change the count and the time of an Event."""
        await self._request("PATCH", _path(CORE, namespace, "events", name), Call("patch", "events"), change)

    async def close(self) -> None:
        """Close the connections."""
        clients, self._clients, self._configuration = self._clients, {}, None
        for client in clients.values():
            await client.close()

    async def _request(
        self, method: str, path: str, call: Call, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        self._check_turn(call)
        configuration = await self._configure()
        session = self._open_session(configuration, is_lease=call.resource == "leases")
        headers = {
            "Accept": _METADATA_ONLY if call in _BRIEF else _JSON,
            "Content-Type": _CONTENT.get(call.verb, _JSON),
        }
        if token := await configuration.get_api_key_with_prefix("BearerToken", alias="authorization"):
            headers["Authorization"] = token
        code = 0
        try:
            async with session.request(
                method,
                f"{configuration.host.rstrip('/')}/{path}",
                data=orjson.dumps(body) if body is not None else None,
                headers=headers,
                proxy=configuration.proxy,
                timeout=_TIMEOUTS.get(call.resource, _TIMEOUT),
            ) as response:
                code = response.status
                answer = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise errors.ApiUnreachable(
                f"the API server {configuration.host} does not answer: {_cause(error)}"
            ) from error
        finally:
            self._requests.labels(call.verb, call.resource, str(code)).inc()
        if code < 300:
            document: dict[str, Any] = orjson.loads(answer)
            if call in _ECHOED:
                self.echoes.wrote(call.resource, document["metadata"])
            return {**(body or {}), "metadata": document["metadata"]} if call in _BRIEF else document
        text = answer.decode(errors="replace")
        problem = _error(code, text, configuration.host, call, response.headers)
        if isinstance(problem, errors.LoginFailed):
            await self.close()  # the next request reads the credentials anew
        if isinstance(problem, errors.ApiBusy):
            self._busy_until = max(self._busy_until, time.monotonic() + problem.retry_after_seconds)
        raise problem

    def _check_turn(self, call: Call) -> None:
        """Keep back what must not be sent now: writes of a standby, anything while we were asked to wait."""
        if call.resource == "leases":
            return
        if call.verb not in _READS and not self._may_write():
            raise errors.NotLeading("another replica leads")
        wait = self._busy_until - time.monotonic()
        if wait > 0:
            raise errors.ApiBusy(
                f"the API server asks to wait {wait:.1f} s before the next request", retry_after_seconds=wait
            )

    async def _configure(self) -> Configuration:
        async with self._connecting:
            if self._configuration is None:
                self._configuration = await _load_configuration()
            return self._configuration

    def _open_session(self, configuration: Configuration, *, is_lease: bool) -> aiohttp.ClientSession:
        if is_lease not in self._clients:
            client = self._clients[is_lease] = RESTClientObject(configuration)
            # The official client makes its session at the first request of its own: there will be none.
            client.pool_manager = client._create_pool_manager()
        session: aiohttp.ClientSession = self._clients[is_lease].pool_manager
        return session


async def _load_configuration() -> Configuration:
    # trust_env would read netrc and the proxy variables in a thread for every request.
    # Nor are cookies looked for, of which the API server has none.
    session = {"trust_env": False, "cookie_jar": aiohttp.DummyCookieJar()}
    configuration = Configuration(client_session_kwargs=session)
    configuration.connection_pool_maxsize = CONNECTIONS
    try:
        if os.path.exists(_TOKEN_FILE) and "KUBERNETES_SERVICE_HOST" in os.environ:
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


def _path(api: str, namespace: str | None, *parts: str) -> str:
    scope = ("namespaces", namespace) if namespace else ()
    return "/".join((api, *scope, *parts))


def _locate(manifest: Mapping[str, Any]) -> tuple[str, str]:
    """The path of a child's collection, and its plural."""
    version, plural = manifest.get("apiVersion", "v1"), f"{manifest['kind'].lower()}s"
    api = CORE if version == "v1" else f"apis/{version}"
    return _path(api, manifest["metadata"]["namespace"], plural), plural


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
    if code == 404 and call == ("list", names.PLURAL):
        return errors.DefinitionMissing(
            f"the API server {host} knows no DetectionJobs: apply manifests/crds (`kubedet crds` prints them)"
        )
    if code == 404 and call.resource == "podgroups":
        return errors.Rejected(f"{call}: {said}; spec.schedulingPolicy.gang names a scheduler that is absent")
    if code == 429:
        seconds = headers.get("Retry-After", "1")
        return errors.ApiBusy(
            f"the API server {host} is busy: {said}",
            retry_after_seconds=float(seconds) if seconds.isdecimal() else 1.0,
        )
    if code >= 500:
        return errors.ApiUnreachable(f"the API server {host} cannot serve {call}: {code} {said}")
    meaning = {404: errors.NotFound, 409: errors.Conflict}.get(code, errors.Rejected)
    return meaning(f"{call}: {said}")


def _said(answer: str) -> str:
    """The message of a Status object, or the answer as it is."""
    try:
        message = orjson.loads(answer).get("message", answer)
    except (ValueError, AttributeError):
        message = answer
    return " ".join(str(message).split())[:2000]
