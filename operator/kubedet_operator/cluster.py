"""The only client of the API server: reads jobs and pods, applies children and status, deletes pods.

Configuration, TLS and the refresh of tokens come from the official client; the requests are plain dicts
through its own session, which costs half the CPU of its typed calls.
"""

from __future__ import annotations

import asyncio
import json
import os
import urllib.request
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject

from kubedet_operator import errors
from kubedet_operator.api import names
from kubedet_operator.metrics import Metrics

REQUEST_SECONDS = 30
"""No request may hold a job longer than this."""

CHUNK = 500
"""Objects of one page of a list, so that a cold start with thousands of pods stays small."""

JOBS = f"apis/{names.API_VERSION}"
CORE = "api/v1"
_PLURALS = {"Pod": "pods", "Service": "services"}
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


class Cluster:
    """One connection to the API server; made at the first request, and again after a refused login."""

    def __init__(self, metrics: Metrics) -> None:
        self._requests = metrics["api_requests"]
        self._configuration: Configuration | None = None
        self._client: RESTClientObject | None = None
        self._session: aiohttp.ClientSession | None = None
        self._connecting = asyncio.Lock()

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

    async def list_jobs(self, namespaces: Iterable[str]) -> AsyncIterator[dict[str, Any]]:
        """Every DetectionJob of `namespaces`, or of the whole cluster if they are none."""
        async for item in self._list(JOBS, names.PLURAL, namespaces, selector=""):
            yield {"apiVersion": names.API_VERSION, "kind": names.KIND, **item}

    async def list_pods(self, namespaces: Iterable[str]) -> AsyncIterator[dict[str, Any]]:
        """Every pod that some operator has made for a job."""
        async for item in self._list(CORE, "pods", namespaces, selector=names.children_selector()):
            yield item

    async def read_job(self, namespace: str, name: str) -> dict[str, Any]:
        """One DetectionJob, as it is now."""
        return await self._request("GET", _path(JOBS, namespace, names.PLURAL, name), verb="get")

    async def apply(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Create or repair a child by server-side apply, and return it as it is then."""
        metadata = manifest["metadata"]
        path = _path(CORE, metadata["namespace"], _PLURALS[manifest["kind"]], metadata["name"])
        return await self._apply(path, manifest)

    async def apply_status(self, job: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, Any]:
        """Write the status of `job`, if nobody has changed the job since it was read.

        Raises:
            errors.Conflict: somebody has.
        """
        metadata = job["metadata"]
        kept = ("name", "namespace", "uid", "resourceVersion")
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {field: metadata[field] for field in kept},
            "status": status,
        }
        path = _path(JOBS, metadata["namespace"], names.PLURAL, metadata["name"])
        return await self._apply(f"{path}/status", body)

    async def delete_pod(self, namespace: str, name: str, *, uid: str) -> None:
        """Delete this very pod; one that is gone already, or has been replaced, is as good as deleted."""
        try:
            await self._request(
                "DELETE",
                _path(CORE, namespace, "pods", name),
                verb="delete",
                body={"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}},
            )
        except (errors.NotFound, errors.Conflict):
            return

    async def close(self) -> None:
        """Close the connections."""
        client, self._client, self._session, self._configuration = self._client, None, None, None
        if client is not None:
            await client.close()

    async def _list(
        self, api: str, plural: str, namespaces: Iterable[str], *, selector: str
    ) -> AsyncIterator[dict[str, Any]]:
        for namespace in tuple(namespaces) or (None,):
            query = {"limit": str(CHUNK), **({"labelSelector": selector} if selector else {})}
            while True:
                path = _path(api, namespace, plural)
                page = await self._request("GET", f"{path}?{urlencode(query)}", verb="list")
                for item in page["items"]:
                    yield item
                if not (token := page["metadata"].get("continue")):
                    break
                query["continue"] = token

    async def _apply(self, path: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
        query = urlencode({"fieldManager": names.FIELD_MANAGER, "force": "true"})
        return await self._request(
            "PATCH",
            f"{path}?{query}",
            verb="apply",
            body=manifest,
            content_type="application/apply-patch+yaml",
        )

    async def _request(
        self,
        method: str,
        path: str,
        *,
        verb: str,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        configuration = await self._configure()
        session = await self._open_session(configuration)
        headers = {"Accept": "application/json", "Content-Type": content_type}
        if token := await configuration.get_api_key_with_prefix("BearerToken", alias="authorization"):
            headers["Authorization"] = token
        resource = next(part for part in (names.PLURAL, "services", "pods") if f"/{part}" in path)
        code = 0
        try:
            async with session.request(
                method,
                f"{configuration.host.rstrip('/')}/{path}",
                data=json.dumps(body) if body is not None else None,
                headers=headers,
                proxy=configuration.proxy,
                timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS),
            ) as response:
                code = response.status
                answer = await response.text()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise errors.ApiUnreachable(
                f"the API server {configuration.host} does not answer: {_cause(error)}"
            ) from error
        finally:
            self._requests.labels(verb, resource, str(code)).inc()
        if code < 300:
            document: dict[str, Any] = json.loads(answer)
            return document
        problem = _error(code, answer, configuration.host, f"{verb} {resource}", response.headers)
        if isinstance(problem, errors.LoginFailed):
            await self.close()  # the next request reads the credentials anew
        raise problem

    async def _configure(self) -> Configuration:
        async with self._connecting:
            if self._configuration is None:
                self._configuration = await _load_configuration()
            return self._configuration

    async def _open_session(self, configuration: Configuration) -> aiohttp.ClientSession:
        if self._session is None:
            self._client = RESTClientObject(configuration)
            # The official client makes its session at the first request of its own: there will be none.
            self._client.pool_manager = self._client._create_pool_manager()
            self._session = self._client.pool_manager
        return self._session


async def _load_configuration() -> Configuration:
    # trust_env would read netrc and the proxy variables in a thread for every request.
    configuration = Configuration(client_session_kwargs={"trust_env": False})
    try:
        if os.path.exists(_TOKEN_FILE) and "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=configuration)
        else:
            await config.load_kube_config(client_configuration=configuration)
    except (config.ConfigException, OSError) as error:
        raise errors.LoginFailed(
            f"no way to the API server: not in a pod, and no usable kubeconfig ({_cause(error)}); "
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


def _cause(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _error(code: int, answer: str, host: str, what: str, headers: Mapping[str, str]) -> errors.OperatorError:
    """The error that a status code of the API server means."""
    said = _said(answer)
    if code == 401:
        return errors.LoginFailed(f"the API server {host} refuses the operator's credentials: {said}")
    # Admission (quota, Pod Security) answers 403 as well; the authoriser's own words say who cannot do what.
    if code == 403 and "cannot" in said and 'resource "' in said:
        return errors.PermissionMissing(f"{said}; apply manifests/rbac.yaml")
    if code == 404 and what == f"list {names.PLURAL}":
        return errors.DefinitionMissing(
            f"the API server {host} knows no DetectionJobs: apply manifests/crds (`kubedet crds` prints them)"
        )
    if code == 429:
        seconds = headers.get("Retry-After", "1")
        return errors.ApiBusy(
            f"the API server {host} is busy: {said}",
            retry_after_seconds=float(seconds) if seconds.isdecimal() else 1.0,
        )
    if code >= 500:
        return errors.ApiUnreachable(f"the API server {host} cannot serve {what}: {code} {said}")
    meaning = {404: errors.NotFound, 409: errors.Conflict}.get(code, errors.Rejected)
    return meaning(f"{what}: {said}")


def _said(answer: str) -> str:
    """The message of a Status object, or the answer as it is."""
    try:
        message = json.loads(answer).get("message", answer)
    except (ValueError, AttributeError):
        message = answer
    return " ".join(str(message).split())[:2000]
