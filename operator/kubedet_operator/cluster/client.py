"""Our client of the API server: every request except kopf's."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import urlencode

import aiohttp
import orjson

from kubedet_operator.api import names
from kubedet_operator.cluster import errors
from kubedet_operator.cluster.connection import Call, Connection, Credentials
from kubedet_operator.decision.objects import read_owner
from kubedet_operator.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

JOBS = f"apis/{names.API_VERSION}"
CORE = "api/v1"
LEASES = "apis/coordination.k8s.io/v1"

CHUNK = 100
"""Objects in one page of a list. Larger pages are not faster, and their memory is never given back."""

Event = Mapping[str, Any]
"""An event of a watch: `type` (ADDED, MODIFIED, DELETED or BOOKMARK) and `object`."""

_METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_OURS = urlencode({"fieldManager": names.FIELD_MANAGER, "fieldValidation": "Strict"})
_BRIEF = {Call("update", names.PLURAL), Call("update", names.ZOO_PLURAL), Call("create", "pods")}
"""Writes whose answer tells no more than was sent, but for the metadata: the rest is not asked for."""


class Collection(NamedTuple):
    """Objects that are listed and watched: those of one kind with certain labels."""

    api: str
    plural: str
    selector: str = ""


class Page(NamedTuple):
    """One page of a list."""

    items: list[dict[str, Any]]
    version: str
    """Resource version of the whole list, the same on every page. A watch can start from it."""


ALL_JOBS = Collection(JOBS, names.PLURAL)
ALL_ZOOS = Collection(JOBS, names.ZOO_PLURAL)
PODS = Collection(CORE, "pods", names.children_selector())
SERVICES = Collection(CORE, "services", names.children_selector())


class Cluster:
    """One connection to the API server; made at the first request, and again after a refused login."""

    def __init__(self, metrics: Metrics, *, may_write: Callable[[], bool] = lambda: True) -> None:
        """`may_write` is asked before every write, but for that of the Lease: whether this process acts."""
        self._unreadable = metrics["unreadable"]
        self._connection = Connection(metrics, may_write=may_write)
        self.clock = self._connection.clock
        """The time of this API server."""

    async def credentials(self) -> Credentials:
        """The credentials of now; tokens are read again where they expire.

        Raises:
            errors.LoginFailed: there are none.
        """
        return await self._connection.credentials()

    async def require_discovery(self, collection: Collection) -> None:
        """Return if the API server names the kind where kopf looks for it.

        The API server serves a new kind some moments before that.

        Raises:
            errors.DefinitionMissing: it does not name it yet.
        """
        call = Call("list", collection.plural)
        _, group, version = collection.api.split("/")
        groups = (await self._connection.request("GET", "apis", call))["groups"]
        if any(found["name"] == group for found in groups):
            kinds = (await self._connection.request("GET", collection.api, call))["resources"]
            if any(found["name"] == collection.plural for found in kinds):
                return
        raise errors.DefinitionMissing(
            f"the API server names no {collection.plural} of {group}/{version} yet: apply manifests/crds"
        )

    async def list_pages(self, collection: Collection, namespace: str | None) -> AsyncIterator[Page]:
        """The objects of a namespace, or of all (None), at one moment, page by page.

        Raises:
            errors.Gone: the list took too long; start again.
        """
        path, call = _path(collection.api, namespace, collection.plural), Call("list", collection.plural)
        query = {"limit": str(CHUNK)} | _select(collection)
        while True:
            try:
                answer = await self._connection.request("GET", f"{path}?{urlencode(query)}", call)
            except errors.Unreadable:
                answer = await self._list_one_by_one(f"{path}?{urlencode(query)}", collection, call)
            items, metadata = answer.get("items") or [], answer["metadata"]
            for item in items:  # those of a typed list do not say what they are
                item.setdefault("apiVersion", answer["apiVersion"])
                item.setdefault("kind", answer["kind"].removesuffix("List"))
            yield Page(items, metadata["resourceVersion"])
            if not metadata.get("continue"):
                return
            query["continue"] = metadata["continue"]

    @asynccontextmanager
    async def watch(
        self, collection: Collection, namespace: str | None, *, version: str, seconds: int
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """The changes since a resource version, until the API server ends the watch after `seconds`.

        The block starts once the API server has accepted the watch.

        Raises:
            errors.Gone: the version is too old, or events were lost; list again.
            errors.ApiUnreachable: the connection broke; resume from the newest version seen.
        """
        path = _path(collection.api, namespace, collection.plural)
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
        } | _select(collection)
        call = Call("watch", collection.plural)
        async with self._connection.open("GET", f"{path}?{urlencode(query)}", call) as response:
            yield self._read_events(response, call)

    async def _list_one_by_one(self, address: str, collection: Collection, call: Call) -> dict[str, Any]:
        """A page of a list without the objects that cannot be read, and without which it could be."""
        answer = await self._connection.request("GET", address, call, accept=_METADATA_LIST)
        items: list[dict[str, Any]] = []
        for item in answer["items"]:
            metadata = item["metadata"]
            path = _path(collection.api, metadata["namespace"], collection.plural, metadata["name"])
            try:
                items.append(await self._connection.request("GET", path, Call("get", collection.plural)))
            except errors.Unreadable as error:
                self._pass_over(collection.plural, f"{metadata['namespace']}/{metadata['name']}: {error}")
            except errors.NotFound:
                pass
        return {**answer, "items": items}

    async def _read_events(self, response: aiohttp.ClientResponse, call: Call) -> AsyncIterator[Event]:
        buffer = b""
        async for chunk in response.content.iter_any():
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                try:
                    event: Event = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    self._pass_over(call.resource, f"an event: {error}")
                    continue
                if event["type"] == "ERROR":  # client-go lists again after any error, too
                    raise errors.Gone(f"{call}: {event['object'].get('message')}")
                yield event

    def _pass_over(self, plural: str, problem: str) -> None:
        """Tell of an object that cannot be read: whatever is in it, the others can be."""
        self._unreadable.labels(plural).inc()
        logger.error("%s: an object is ignored: %s", plural, problem)

    async def read_job(self, namespace: str, name: str) -> dict[str, Any]:
        """One DetectionJob, as it is now."""
        return await self._read(names.PLURAL, namespace, name)

    async def read_pod(self, namespace: str, name: str) -> dict[str, Any]:
        """One pod, as it is now."""
        return await self._connection.request(
            "GET", _path(CORE, namespace, "pods", name), Call("get", "pods")
        )

    async def read_zoo(self, namespace: str, name: str) -> dict[str, Any]:
        """One ModelZoo, as it is now."""
        return await self._read(names.ZOO_PLURAL, namespace, name)

    async def create(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Create a DetectionJob or a pod of a zoo, and return it.

        Raises:
            errors.Conflict: there is one of this name, whosever it is.
        """
        path, plural = _locate(manifest)
        query = urlencode({"fieldManager": names.FIELD_MANAGER})
        return await self._connection.request("POST", f"{path}?{query}", Call("create", plural), manifest)

    async def suspend_job(self, namespace: str, name: str, *, uid: str, suspend: bool) -> dict[str, Any]:
        """Suspend or resume this very job on behalf of its zoo, and return it.

        Raises:
            errors.Conflict: another job has the name by now.
        """
        change = {
            "metadata": {"uid": uid, "annotations": {names.ZOO_SUSPENDED: "true" if suspend else None}},
            "spec": {"suspend": suspend},
        }
        query = urlencode({"fieldManager": names.FIELD_MANAGER})
        path = f"{_path(JOBS, namespace, names.PLURAL, name)}?{query}"
        return await self._connection.request("PATCH", path, Call("patch", names.PLURAL), change)

    async def ensure(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Create a child, or repair the one that its job has already; return it as it is then.

        A POST costs the API server two thirds of what server-side apply does, and takes over nothing. Fields
        that the API does not know are refused, not dropped.

        Raises:
            errors.Rejected: there is such an object, and it is not the job's.
            errors.Conflict: there is one of an earlier job, which the garbage collector will delete.
        """
        path, plural = _locate(manifest)
        try:
            return await self._write("POST", f"{path}?{_OURS}", Call("create", plural), manifest)
        except errors.Conflict as conflict:
            target = f"{path}/{manifest['metadata']['name']}"
            try:
                found = await self._connection.request("GET", target, Call("get", plural))
            except errors.NotFound:
                raise conflict from None
        _require_ours(found["metadata"], manifest, plural)
        if manifest["kind"] == "Pod":
            return await self._label(target, found, manifest)
        return await self._apply(target, found, manifest, plural)

    async def _apply(
        self, target: str, found: Mapping[str, Any], manifest: Mapping[str, Any], plural: str
    ) -> dict[str, Any]:
        """Make this very object what it should be, whoever has changed it."""
        body = {**manifest, "metadata": {**manifest["metadata"], "uid": found["metadata"]["uid"]}}
        path = f"{target}?{_OURS}&force=true"
        return await self._connection.request("PATCH", path, Call("apply", plural), body)

    async def _label(
        self, target: str, found: Mapping[str, Any], manifest: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Give this very pod back the labels that it is watched by. It may be of an earlier attempt."""
        metadata = found["metadata"]
        known = {
            name: value for name, value in (metadata.get("labels") or {}).items() if name == names.ATTEMPT
        }
        kept = {field: metadata[field] for field in ("uid", "resourceVersion")}
        body = {"metadata": {**kept, "labels": {**manifest["metadata"]["labels"], **known}}}
        return await self._connection.request("PATCH", f"{target}?{_OURS}", Call("patch", "pods"), body)

    async def write_status(self, job: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, Any]:
        """Replace the status of a job or a zoo, if nobody has changed it since it was read.

        It costs the API server half of what a patch does.

        Raises:
            errors.Conflict: somebody has.
        """
        metadata = job["metadata"]
        kept = ("name", "namespace", "uid", "resourceVersion")
        body = {**job, "metadata": {field: metadata[field] for field in kept}, "status": status}
        path, plural = _locate(job)
        query = urlencode({"fieldManager": names.FIELD_MANAGER})
        target = f"{path}/{metadata['name']}/status?{query}"
        return await self._write("PUT", target, Call("update", plural), body)

    async def delete(self, plural: str, namespace: str, name: str, *, uid: str, force: bool = False) -> None:
        """Delete this very object; one that is gone already, or has been replaced, is as good as deleted.

        What it owns goes after it. With `force`, a pod goes without waiting for its node to end it.
        """
        options: dict[str, Any] = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        if force:
            options["gracePeriodSeconds"] = 0
        path = _path(JOBS if plural in (names.PLURAL, names.ZOO_PLURAL) else CORE, namespace, plural, name)
        body = {"apiVersion": "v1", "kind": "DeleteOptions", **options}
        try:
            await self._connection.request("DELETE", path, Call("delete", plural), body)
        except errors.NotFound:
            return
        except errors.Conflict as conflict:
            # Any other conflict is with a write that came in between: the object is still there.
            if "Precondition failed" not in str(conflict):
                raise

    async def read_lease(self, namespace: str, name: str) -> dict[str, Any]:
        """A Lease, as it is now."""
        return await self._connection.request(
            "GET", _path(LEASES, namespace, "leases", name), Call("get", "leases")
        )

    async def write_lease(self, lease: Mapping[str, Any]) -> dict[str, Any]:
        """Create a Lease without a resource version; replace the one that has it.

        Raises:
            errors.Conflict: somebody was faster.
        """
        metadata = lease["metadata"]
        path = _path(LEASES, metadata["namespace"], "leases")
        if "resourceVersion" not in metadata:
            return await self._connection.request("POST", path, Call("create", "leases"), lease)
        return await self._connection.request(
            "PUT", f"{path}/{metadata['name']}", Call("update", "leases"), lease
        )

    async def write_event(self, event: Mapping[str, Any]) -> None:
        """Create an Event."""
        path = _path(CORE, event["metadata"]["namespace"], "events")
        await self._connection.request("POST", path, Call("create", "events"), event)

    async def repeat_event(self, namespace: str, name: str, change: Mapping[str, Any]) -> None:
        """Change the count and the time of an Event."""
        await self._connection.request(
            "PATCH", _path(CORE, namespace, "events", name), Call("patch", "events"), change
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._connection.close()

    async def _read(self, plural: str, namespace: str, name: str) -> dict[str, Any]:
        path = _path(JOBS, namespace, plural, name)
        return await self._connection.request("GET", path, Call("get", plural))

    async def _write(self, method: str, path: str, call: Call, body: Mapping[str, Any]) -> dict[str, Any]:
        """The object after a write. Only metadata is requested if the rest would repeat the request."""
        if call not in _BRIEF:
            return await self._connection.request(method, path, call, body)
        answer = await self._connection.request(method, path, call, body, accept=_METADATA_ONLY)
        return {**body, "metadata": answer["metadata"]}


def _require_ours(found: Mapping[str, Any], manifest: Mapping[str, Any], plural: str) -> None:
    owner, wanted = read_owner(found), read_owner(manifest["metadata"])
    if owner is not None and owner == wanted:
        return
    if owner is not None and wanted is not None and owner.name == wanted.name:
        raise errors.Conflict(
            f"create {plural}: {found['name']} of an earlier job of this name is not gone yet"
        )
    whose = f"the DetectionJob {owner.name}" if owner else "no DetectionJob"
    raise errors.Rejected(
        f"create {plural}: {found['name']} exists and belongs to {whose}; "
        "delete it, or give the job another name"
    )


def _select(collection: Collection) -> dict[str, str]:
    return {"labelSelector": collection.selector} if collection.selector else {}


def _path(api: str, namespace: str | None, *parts: str) -> str:
    scope = ("namespaces", namespace) if namespace else ()
    return "/".join((api, *scope, *parts))


def _locate(manifest: Mapping[str, Any]) -> tuple[str, str]:
    """The path of a child's collection, and its plural."""
    version, plural = manifest.get("apiVersion", "v1"), f"{manifest['kind'].lower()}s"
    api = CORE if version == "v1" else f"apis/{version}"
    return _path(api, manifest["metadata"]["namespace"], plural), plural
