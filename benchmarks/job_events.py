"""CPU of an event of a DetectionJob on its way into the cache, by kopf and by our own watch, as JSON.

A process of its own streams the events, as fast as they are read: of each job one ADDED and three MODIFIED,
which is what a job's start costs. Goal: kopf takes less than 3 ms a job.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop
from aiohttp import web

from kubedet_operator.api import names
from kubedet_operator.cluster import kopf_operator
from kubedet_operator.cluster.cache import Cache
from kubedet_operator.cluster.client import ALL_JOBS, Cluster
from kubedet_operator.cluster.list_watch import ListWatch, Pace
from kubedet_operator.cluster.outages import Outages
from kubedet_operator.telemetry.health import Health
from kubedet_operator.telemetry.metrics import Metrics

JOBS = 500
EVENTS = 4
"""Of each job."""

AT_ONCE = 20
"""Jobs whose events come together."""

IDLE_SECONDS = 6
"""After which kopf has forgotten objects that nothing happens to."""

_API = f"/apis/{names.API_VERSION}"
_DISCOVERY: dict[str, Any] = {
    "/api": {"versions": ["v1"]},
    "/api/v1": [("namespaces", "Namespace"), ("pods", "Pod"), ("events", "Event")],
    "/apis": {
        "groups": [
            {"name": name, "versions": [{"version": version}], "preferredVersion": {"version": version}}
            for name, version in ((names.GROUP, names.VERSION), ("apiextensions.k8s.io", "v1"))
        ]
    },
    _API: [(names.PLURAL, names.KIND)],
    "/apis/apiextensions.k8s.io/v1": [("customresourcedefinitions", "CustomResourceDefinition")],
}


def serve(port: Any) -> None:
    """An API server that has no jobs at first, and then streams those of the benchmark."""
    asyncio.run(_serve(port))


async def _serve(port: Any) -> None:
    application = web.Application()
    application.router.add_get("/{path:.*}", _answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port.send(runner.addresses[0][1])
    await asyncio.Event().wait()


async def _answer(request: web.Request) -> web.StreamResponse:
    found = _DISCOVERY.get(request.path)
    if isinstance(found, list):
        verbs = {"verbs": ["list", "watch"], "namespaced": True, "singularName": ""}
        found = {"resources": [{"name": plural, "kind": kind, **verbs} for plural, kind in found]}
    if found is not None:
        return web.json_response(found)
    if "watch" not in request.query:
        return web.json_response(
            {"kind": "List", "apiVersion": "v1", "items": [], "metadata": {"resourceVersion": "1"}}
        )
    response = web.StreamResponse()
    await response.prepare(request)
    version = int(request.query["resourceVersion"])
    if version == 1:
        for index in range(JOBS):
            for number in range(EVENTS):
                version += 1
                change = "MODIFIED" if number else "ADDED"
                event = {"type": change, "object": _job(index, version)}
                await response.write(json.dumps(event).encode() + b"\n")
            if index % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0.05)
    await asyncio.sleep(3600)
    return response


def _job(index: int, version: int) -> dict[str, Any]:
    """A job of the size of one that starts: 6 KB, a third of them managed fields."""
    condition = {
        "status": "False",
        "reason": "WaitingForPods",
        "message": "0 of 2 workers have started",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "observedGeneration": 1,
    }
    managed: dict[str, Any] = {f"f:field{number}": {".": {}, "f:value": {}} for number in range(60)}
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {
            "name": f"job-{index}",
            "namespace": "default",
            "uid": f"uid-{index}",
            "generation": 1,
            "resourceVersion": str(version),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "managedFields": [{"manager": "kubectl", "operation": "Update", "fieldsV1": managed}],
        },
        "spec": {
            "recipe": "smoke_faster_rcnn",
            "dataset": {"storageUri": "synthetic://shapes", "format": "COCO"},
            "worker": {"replicas": 2, "gpus": 0},
            "failurePolicy": {"hangTimeoutSeconds": 600},
        },
        "status": {
            "conditions": [{"type": f"Condition{number}", **condition} for number in range(8)],
            "workers": {"desired": 2, "active": 2, "ready": 0, "succeeded": 0, "failed": version},
        },
    }


async def _measure(read: Callable[[Any, Callable[[], None]], Any]) -> dict[str, float]:
    """CPU seconds and memory of this process for all events; `read` feeds a cache and calls for each."""
    seen, began, done = 0, 0.0, asyncio.Event()

    def count() -> None:
        nonlocal seen, began
        seen += 1
        if seen == 1:
            began = time.process_time()
        if seen == JOBS * EVENTS:
            done.set()

    cluster = Cluster(Metrics())
    cache = Cache(lambda _: None, lambda _: None)
    reading = asyncio.create_task(read((cluster, cache, done), count))
    await done.wait()
    await asyncio.sleep(IDLE_SECONDS)
    seconds = time.process_time() - began
    await asyncio.wait({reading}, timeout=10)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await cluster.close()
    return {
        "cpu_ms_per_event": round(seconds / (JOBS * EVENTS) * 1000, 3),
        "cpu_ms_per_job": round(seconds / JOBS * 1000, 2),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


async def _read_by_kopf(parts: Any, count: Callable[[], None]) -> None:
    cluster, cache, done = parts

    def hear(change: str | None, job: dict[str, Any]) -> None:
        cache.store(names.PLURAL, job)
        count()

    async def nothing() -> None:
        pass

    handlers = kopf_operator.Handlers(
        login=cluster.credentials, start=nothing, end=nothing, hear=hear, complaint=lambda: None
    )

    operator = kopf_operator.KopfOperator(handlers, namespaces=(), health_port=None)

    async def end() -> None:
        await done.wait()
        await asyncio.sleep(IDLE_SECONDS)
        operator.stop()

    ending = asyncio.create_task(end())
    await operator.run()
    await ending


async def _read_by_list_watch(parts: Any, count: Callable[[], None]) -> None:
    cluster, cache, _ = parts
    store = cache.store_job

    def store_and_count(job: dict[str, Any]) -> bool:
        is_news: bool = store(job)
        count()
        return is_news

    cache.store_job = store_and_count
    await ListWatch(
        cluster,
        cache,
        Outages(Health()),
        collection=ALL_JOBS,
        namespace=None,
        listed=lambda: None,
        pace=Pace(silence_seconds=3600),
    ).run()


READERS = {"kopf": _read_by_kopf, "list_watch": _read_by_list_watch}


def main() -> int:
    if len(sys.argv) > 1:
        kopf_operator.configure_logs(for_people=False)
        print(json.dumps(uvloop.run(_measure(READERS[sys.argv[1]]))))
        return 0
    found: dict[str, Any] = {"benchmark": "job_events", "jobs": JOBS, "events_per_job": EVENTS}
    for name in READERS:
        found[name] = _run(name)
    print(json.dumps(found, indent=2))
    return 0


def _run(reader: str) -> dict[str, float]:
    """The figures of one reader, in a process that has done nothing else."""
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    with tempfile.TemporaryDirectory() as folder:
        kubeconfig = Path(folder) / "kubeconfig"
        kubeconfig.write_text(_kubeconfig(f"http://127.0.0.1:{ours.recv()}"))
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
        done = subprocess.run(
            [sys.executable, __file__, reader], env=environment, check=True, capture_output=True, text=True
        )
    server.terminate()
    server.join()
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _kubeconfig(url: str) -> str:
    named: dict[str, dict[str, Any]] = {
        "contexts": {"context": {"cluster": "it", "user": "it"}},
        "clusters": {"cluster": {"server": url}},
        "users": {"user": {}},
    }
    entries = {part: [{"name": "it", **entry}] for part, entry in named.items()}
    return json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "it", **entries})


if __name__ == "__main__":
    sys.exit(main())
