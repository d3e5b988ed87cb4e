"""An unreliable way to an API server: errors, broken and silent watches, outages, all of one seed.

A test puts it between the operator and a real API server. It speaks plain HTTP to the operator, so that a
kubeconfig needs its address only, and uses the administrator's certificate behind that.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import ssl
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web


@dataclass(frozen=True, kw_only=True)
class Chaos:
    """How much goes wrong; probabilities are of one request, or of one event of a watch."""

    conflict: float = 0.01
    busy: float = 0.01
    """429, with a Retry-After of one second."""
    broken: float = 0.01
    """500; half of them after the request was carried out."""
    dropped_watch: float = 0.01
    silent_watch: float = 0.0025
    """The watch stays open and tells nothing any more."""
    outage_every_seconds: float = 0.0
    """0: never."""
    outage_seconds: float = 20.0
    seed: int = 0


class ChaosProxy:
    """Runs in a thread of its own; `kubeconfig` leads through it."""

    def __init__(self, kubeconfig: Path, *, chaos: Chaos, folder: Path) -> None:
        self._chaos = chaos
        self._random = random.Random(chaos.seed)
        config = json.loads(kubeconfig.read_text())
        self._server = config["clusters"][0]["cluster"]["server"]
        self._tls = _tls(config)
        self._port = 0
        self._is_up = True
        self._open: set[web.StreamResponse] = set()
        self._outages: list[tuple[float, float]] = []
        self.done: Counter[str] = Counter()
        """What has gone wrong so far, by kind."""
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(20)
        self.kubeconfig = folder / "chaos.json"
        cluster = {"server": f"http://127.0.0.1:{self._port}"}
        user = {"name": "chaos", "user": {}}
        context = {"name": "chaos", "context": {"cluster": "chaos", "user": "chaos"}}
        self.kubeconfig.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "chaos",
                    "contexts": [context],
                    "clusters": [{"name": "chaos", "cluster": cluster}],
                    "users": [user],
                }
            )
        )

    def seconds_away(self, begin: float, end: float) -> float:
        """How much of a span of the monotonic clock nothing got through in."""
        away = [*self._outages, *([] if self._is_up else [(self._down_at, end)])]
        return sum(max(0.0, min(end, until) - max(begin, since)) for since, until in away)

    def stop(self) -> None:
        """End it, with every connection."""
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(20)

    def _run(self, started: threading.Event) -> None:
        asyncio.run(self._serve(started))

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None),
            skip_auto_headers=("Accept-Encoding",),  # what is passed on as it comes must be plain
        ) as self._session:
            application = web.Application(client_max_size=2**24)
            application.router.add_route("*", "/{path:.*}", self._answer)
            # A watch that was made silent is to end when the client gives it up.
            runner = web.AppRunner(
                application, access_log=None, shutdown_timeout=1, handler_cancellation=True
            )
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self._port = runner.addresses[0][1]
            started.set()
            outages = asyncio.create_task(self._have_outages())
            await self._stopped.wait()
            outages.cancel()
            await runner.cleanup()

    async def _have_outages(self) -> None:
        while self._chaos.outage_every_seconds:
            await asyncio.sleep(self._chaos.outage_every_seconds)
            self._down_at, self._is_up = time.monotonic(), False
            self.done["outage"] += 1
            for response in list(self._open):
                _cut(response)
            await asyncio.sleep(self._chaos.outage_seconds)
            self._outages.append((self._down_at, time.monotonic()))
            self._is_up = True

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if not self._is_up:
            assert request.transport is not None
            request.transport.close()
            return web.Response(status=503)
        if request.query.get("watch") == "true":
            return await self._watch(request)
        fate = self._random.random()
        chaos = self._chaos
        if request.method != "GET" and fate < chaos.conflict:
            return self._refuse(409, "Conflict", "the object has been modified")
        if chaos.conflict <= fate < chaos.conflict + chaos.busy:
            return self._refuse(429, "TooManyRequests", "too many requests")
        is_broken = 0 <= fate - chaos.conflict - chaos.busy < chaos.broken
        if is_broken and self._random.random() < 0.5:
            return self._refuse(500, "InternalError", "before it was done")
        answer = await self._pass_on(request)
        return self._refuse(500, "InternalError", "after it was done") if is_broken else answer

    async def _pass_on(self, request: web.Request) -> web.Response:
        async with self._session.request(
            request.method,
            f"{self._server}{request.path_qs}",
            data=await request.read() or None,
            headers=_kept(request),
        ) as answer:
            return web.Response(
                status=answer.status, body=await answer.read(), content_type=answer.content_type
            )

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        async with self._session.get(f"{self._server}{request.path_qs}", headers=_kept(request)) as answer:
            response.set_status(answer.status)
            await response.prepare(request)
            self._open.add(response)
            try:
                async for line in answer.content:
                    fate = self._random.random()
                    if fate < self._chaos.dropped_watch:
                        self.done["dropped watch"] += 1
                        _cut(response)
                        break
                    if fate < self._chaos.dropped_watch + self._chaos.silent_watch:
                        self.done["silent watch"] += 1
                        await asyncio.sleep(3600)
                    await response.write(line)
            except (ConnectionError, aiohttp.ClientError):
                _cut(response)
            finally:
                self._open.discard(response)
        return response

    def _refuse(self, code: int, reason: str, message: str) -> web.Response:
        self.done[str(code)] += 1
        status = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}
        return web.json_response(status, status=code, headers={"Retry-After": "1"} if code == 429 else {})


def _cut(response: web.StreamResponse) -> None:
    """Close a connection in the middle of its answer."""
    request = response._req
    if request is not None and request.transport is not None:
        request.transport.close()


def _kept(request: web.Request) -> dict[str, str]:
    return {name: request.headers[name] for name in ("Content-Type", "Accept") if name in request.headers}


def _tls(config: dict[str, Any]) -> ssl.SSLContext:
    """The administrator's way to the API server."""
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    context = ssl.create_default_context(cadata=authority)
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder) / "certificate", Path(folder) / "key"
        certificate.write_bytes(base64.b64decode(user["client-certificate-data"]))
        key.write_bytes(base64.b64decode(user["client-key-data"]))
        context.load_cert_chain(certificate, key)
    return context
