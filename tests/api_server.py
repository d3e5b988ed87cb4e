"""An API server in memory, as far as lists and watches go; it forgets, breaks off and falls silent as told.

It stands in for the real one where a fault must come at an exact moment. It speaks HTTP, so that the real
client, and kopf, are what is tested.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from kubedet_operator.api import names

_GROUPS = {
    "api/v1": {"pods": "Pod", "services": "Service", "namespaces": "Namespace", "events": "Event"},
    f"apis/{names.API_VERSION}": {names.PLURAL: names.KIND, names.ZOO_PLURAL: names.ZOO_KIND},
    "apis/apiextensions.k8s.io/v1": {"customresourcedefinitions": "CustomResourceDefinition"},
}
"""What kopf looks up when it starts: the kinds of each API group, by plural."""


class ApiServer:
    """Objects by plural and uid, their history, and the faults to come."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Mapping[str, str]]] = []
        """Method, path and query of every request."""
        self.refusals: list[tuple[int, str]] = []
        """Codes and messages of the next answers to lists and watches."""
        self.knows_jobs = True
        self.names_jobs = True
        """Whether discovery shows what is known of our group; a real one lags behind."""
        self.knows_zoos = True
        self.silent_watches = 0
        """How many of the next watches are accepted, and then tell nothing and never end."""
        self.broken_watches = 0
        """How many of the next watches break off after one event."""
        self.url = ""
        self._objects: dict[str, dict[str, dict[str, Any]]] = {}
        self._history: list[tuple[int, str, dict[str, Any]]] = []
        self._version = 10
        self._compacted = 0
        self._changed = asyncio.Event()

    def put(self, plural: str, manifest: Mapping[str, Any]) -> None:
        """Create or change an object."""
        uid = manifest["metadata"]["uid"]
        change = "MODIFIED" if uid in self._objects.get(plural, {}) else "ADDED"
        self._record(plural, change, manifest)

    def remove(self, plural: str, uid: str, *, unseen: bool = False) -> None:
        """Delete an object; unseen: no watch tells it any more."""
        manifest = self._objects[plural].pop(uid)
        self._record(plural, "DELETED", manifest)
        if unseen:
            self.compact()

    def compact(self) -> None:
        """Forget the past: whoever wants to go on from there is told that it is gone."""
        self._history.clear()
        self._compacted = self._version

    def asked(self, plural: str, *, watch: bool) -> list[Mapping[str, str]]:
        """The queries of the lists of a kind, or of its watches."""
        return [
            query
            for _, path, query in self.requests
            if path.rpartition("/")[2] == plural and ("watch" in query) == watch
        ]

    def _record(self, plural: str, change: str, manifest: Mapping[str, Any]) -> None:
        self._version += 1
        metadata = {**manifest["metadata"], "resourceVersion": str(self._version)}
        stored = {**manifest, "metadata": metadata}
        if change != "DELETED":
            self._objects.setdefault(plural, {})[metadata["uid"]] = stored
        self._history.append((self._version, plural, {"type": change, "object": stored}))
        self._changed.set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The answer to any request."""
        path = request.path.strip("/")
        self.requests.append((request.method, path, dict(request.query)))
        if request.method != "GET":
            return _refuse(405, "nothing is written here")
        if (discovered := self._discover(path)) is not None:
            return web.json_response(discovered)
        if self.refusals:
            return _refuse(*self.refusals.pop(0))
        plural, namespace = path.rpartition("/")[2], _namespace(path)
        unknown = {names.PLURAL: not self.knows_jobs, names.ZOO_PLURAL: not self.knows_zoos}
        is_known = any(plural in kinds for kinds in _GROUPS.values())
        if not is_known or unknown.get(plural):
            return _refuse(404, "the server could not find the requested resource")
        if "watch" in request.query:
            return await self._watch(request, plural, namespace)
        return self._list(request.query, plural, namespace)

    def _discover(self, path: str) -> dict[str, Any] | None:
        is_named = self.knows_jobs and self.names_jobs
        groups = [group for group in _GROUPS if is_named or names.GROUP not in group]
        if path == "api":
            return {"versions": ["v1"]}
        if path == "apis":
            named = [group.split("/")[1:] for group in groups if group.startswith("apis/")]
            return {
                "groups": [
                    {
                        "name": name,
                        "versions": [{"version": version}],
                        "preferredVersion": {"version": version},
                    }
                    for name, version in named
                ]
            }
        if path not in groups:
            return None
        kinds = _GROUPS[path].items()
        return {
            "resources": [
                {
                    "name": plural,
                    "singularName": kind.lower(),
                    "kind": kind,
                    "namespaced": plural != "namespaces",
                    "verbs": ["list", "watch"],
                }
                for plural, kind in kinds
            ]
        }

    def _list(self, query: Mapping[str, str], plural: str, namespace: str | None) -> web.Response:
        version, _, start = query.get("continue", f"{self._version}:0").partition(":")
        if int(version) < self._compacted:
            return _refuse(410, "the provided continue parameter is too old")
        found = [item for item in self._objects.get(plural, {}).values() if _is_in(item, namespace)]
        end = int(start) + int(query.get("limit", len(found) or 1))
        metadata = {"resourceVersion": version}
        if end < len(found):
            metadata["continue"] = f"{version}:{end}"
        kind = next(kinds[plural] for kinds in _GROUPS.values() if plural in kinds)
        items = [{"metadata": item["metadata"], **_content(item)} for item in found[int(start) : end]]
        return web.json_response(
            {
                "kind": f"{kind}List",
                "apiVersion": found[0]["apiVersion"] if found else "v1",
                "metadata": metadata,
                "items": items,
            }
        )

    async def _watch(self, request: web.Request, plural: str, namespace: str | None) -> web.StreamResponse:
        version = int(request.query["resourceVersion"])
        if version < self._compacted:
            return _refuse(410, "too old resource version")
        response = web.StreamResponse()
        await response.prepare(request)
        if self.silent_watches:
            self.silent_watches -= 1
            await asyncio.sleep(3600)
        breaks, self.broken_watches = self.broken_watches > 0, max(self.broken_watches - 1, 0)
        end = asyncio.get_running_loop().time() + float(request.query["timeoutSeconds"])
        while (left := end - asyncio.get_running_loop().time()) > 0:
            self._changed.clear()
            if version < self._compacted:
                await _send(response, {"type": "ERROR", "object": {"code": 410, "message": "compacted"}})
                return response
            for at, of, event in self._history:
                if at <= version or of != plural or not _is_in(event["object"], namespace):
                    continue
                version = at
                await _send(response, event)
                if breaks:
                    assert request.transport is not None
                    request.transport.close()
                    return response
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                break
        metadata = {"resourceVersion": str(self._version)}
        await _send(response, {"type": "BOOKMARK", "object": {"metadata": metadata}})
        return response


@asynccontextmanager
async def serve() -> AsyncIterator[ApiServer]:
    """Run an API server until the block ends."""
    server = ApiServer()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


def write_kubeconfig(path: Path, url: str) -> None:
    """A kubeconfig by which the operator's client finds a server."""
    named = {
        "contexts": {"context": {"cluster": "it", "user": "it"}},
        "clusters": {"cluster": {"server": url}},
        "users": {"user": {"token": "secret-token"}},
    }
    entries = {part: [{"name": "it", **entry}] for part, entry in named.items()}
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "it", **entries}))


async def _send(response: web.StreamResponse, event: Mapping[str, Any]) -> None:
    await response.write(json.dumps(event).encode() + b"\n")


def _refuse(code: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "code": code, "message": message}, status=code)


def _namespace(path: str) -> str | None:
    parts = path.split("/")
    return parts[parts.index("namespaces") + 1] if "namespaces" in parts[:-1] else None


def _is_in(item: Mapping[str, Any], namespace: str | None) -> bool:
    return namespace in (None, item["metadata"]["namespace"])


def _content(item: Mapping[str, Any]) -> dict[str, Any]:
    """What a list shows of an object: those of built-in kinds do not repeat what they are."""
    is_custom = item["kind"] in (names.KIND, names.ZOO_KIND)
    return {field: value for field, value in item.items() if is_custom or field not in ("kind", "apiVersion")}
