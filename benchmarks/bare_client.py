"""A client of the API server that does nothing but requests: the load, the observer and the ceiling."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml

JOBS = "apis/kubedet.dev/v1alpha1"
CORE = "api/v1"
_METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


class BareClient:
    """Requests with plain dicts, as the administrator of a kubeconfig."""

    def __init__(self, kubeconfig: str) -> None:
        config = yaml.safe_load(Path(kubeconfig).read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._host = cluster["server"]
        context = ssl.create_default_context(cafile=_file(cluster, "certificate-authority"))
        context.load_cert_chain(_file(user, "client-certificate"), _file(user, "client-key"))
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=64),
            timeout=aiohttp.ClientTimeout(total=None),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def request(
        self, method: str, path: str, body: str | Mapping[str, Any] | None = None, *, allowed: int = 0
    ) -> dict[str, Any]:
        """The answer to one request; a refusal raises, unless its code is `allowed`."""
        text = body if isinstance(body, str) or body is None else json.dumps(body)
        headers = {"Content-Type": "application/json"}
        async with self._session.request(
            method, f"{self._host}/{path}", data=text, headers=headers
        ) as response:
            answer: dict[str, Any] = json.loads(await response.text())
            if response.status >= 300 and response.status != allowed:
                raise RuntimeError(f"{method} {path}: {response.status} {answer.get('message')}")
            return answer

    async def count(self, path: str) -> int:
        """How many objects there are below a path."""
        page = await self.request("GET", f"{path}?limit=1")
        return len(page["items"]) + int(page["metadata"].get("remainingItemCount", 0))

    async def watch(self, path: str, take: Callable[[str, dict[str, Any]], None], *, whole: bool) -> None:
        """Give every change below a path to `take`, from now on: whole objects, or their metadata only."""
        headers = {} if whole else {"Accept": _METADATA_ONLY}
        version = (await self.request("GET", f"{path}?limit=1"))["metadata"]["resourceVersion"]
        while True:  # a client that is too slow loses its watch
            url = f"{self._host}/{path}?watch=true&resourceVersion={version}"
            async with self._session.get(url, headers=headers) as response:
                buffer = b""
                async for chunk in response.content.iter_any():
                    *lines, buffer = (buffer + chunk).split(b"\n")
                    for event in map(json.loads, lines):
                        if event["type"] == "ERROR":
                            raise RuntimeError(f"watch of {path}: {event['object'].get('message')}")
                        version = event["object"]["metadata"]["resourceVersion"]
                        take(event["type"], event["object"])


@dataclass
class Observer:
    """When the pods of every job were created, and which jobs run, as an unconcerned client sees it."""

    client: BareClient
    namespace: str
    pods_of_a_job: int
    complete_at: dict[str, float] = field(default_factory=dict)
    """By name of a job: the moment at which its last pod was there."""
    described: set[str] = field(default_factory=set)
    running: set[str] = field(default_factory=set)
    _pods: dict[str, set[str]] = field(default_factory=dict)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Begin to watch."""
        pods = f"{CORE}/namespaces/{self.namespace}/pods"
        jobs = f"{JOBS}/namespaces/{self.namespace}/detectionjobs"
        self._tasks = [
            asyncio.create_task(self.client.watch(pods, self._see_pod, whole=False)),
            asyncio.create_task(self.client.watch(jobs, self._see_job, whole=True)),
        ]
        await asyncio.sleep(0.5)

    async def stop(self) -> None:
        """Watch no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _see_pod(self, kind: str, pod: dict[str, Any]) -> None:
        job = (pod["metadata"].get("labels") or {}).get("kubedet.dev/job-name")
        if kind == "ADDED" and job:
            seen = self._pods.setdefault(job, set())
            seen.add(pod["metadata"]["name"])
            if len(seen) == self.pods_of_a_job:
                self.complete_at.setdefault(job, time.monotonic())

    def _see_job(self, kind: str, job: dict[str, Any]) -> None:
        status = job.get("status") or {}
        if status.get("conditions"):
            self.described.add(job["metadata"]["name"])
        if status.get("phase") == "Running":
            self.running.add(job["metadata"]["name"])


def _file(entry: Mapping[str, str], key: str) -> str:
    """The path of a certificate or key of a kubeconfig, written to a file where it is inline."""
    if key in entry:
        return entry[key]
    with tempfile.NamedTemporaryFile(delete=False) as file:
        file.write(base64.b64decode(entry[f"{key}-data"]))
    return file.name
