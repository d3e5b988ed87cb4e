"""The port of a worker: ``/metrics`` of all its ranks, ``/progress`` of rank 0, and ``/healthz``.

The ranks write their metrics into files (the multiprocess mode of prometheus_client), and PID 1 reads them. A
scrape therefore never waits for a training step, and the port answers from the start of the pod to its end.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from importlib import metadata
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from kubedet_trainer.contract import METRICS_DIRECTORY, PROGRESS_FILE, Environment
from kubedet_trainer.telemetry import metrics
from kubedet_trainer.worker import cgroups
from kubedet_trainer.worker.server import Server

_LIVE_GAUGE = re.compile(r"gauge_live\w*_(\d+)\.db")


@dataclass(frozen=True, kw_only=True)
class _Answer:
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK


def serve(work_directory: Path, *, port: int) -> AbstractContextManager[int]:
    """Serve the work directory of a worker until the block ends. Yields the port; 0 lets the system choose.

    Raises:
        UsageError: the port is taken, or this process may not bind it.
    """
    return _Server(work_directory, port).serving()


class _Server(Server):
    def __init__(self, work_directory: Path, port: int) -> None:
        self.work_directory = work_directory
        self.build = _build_registry()
        super().__init__(port, _Handler, variable=Environment.METRICS_PORT)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10

    def do_GET(self) -> None:
        """Answer a request."""
        answer = _ROUTES.get(self.path.partition("?")[0], _not_found)(self)
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Keep scrapes out of the log."""


def _read_metrics(request: _Handler) -> _Answer:
    directory = request.server.work_directory / METRICS_DIRECTORY
    _remove_gauges_of_ended_processes(directory)
    ranks = CollectorRegistry()
    MultiProcessCollector(ranks, path=str(directory))  # type: ignore[no-untyped-call]
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    registry = CollectorRegistry()
    registry.register(ranks)
    registry.register(request.server.build)
    return _Answer(body=encode(registry), content_type=content_type)


def _progress(request: _Handler) -> _Answer:
    try:
        body = (request.server.work_directory / PROGRESS_FILE).read_bytes()
    except FileNotFoundError:
        return _Answer(
            body=b'{"error":"rank 0 does not run in this worker"}\n',
            content_type="application/json",
            status=HTTPStatus.NOT_FOUND,
        )
    return _Answer(body=body, content_type="application/json")


def _health(_: _Handler) -> _Answer:
    return _Answer(body=b"ok\n")


def _not_found(_: _Handler) -> _Answer:
    return _Answer(
        body=b"not found; the paths are /metrics, /progress and /healthz\n", status=HTTPStatus.NOT_FOUND
    )


_ROUTES = {"/metrics": _read_metrics, "/progress": _progress, "/healthz": _health}


def _remove_gauges_of_ended_processes(directory: Path) -> None:
    """Remove gauges that count only while their process runs, once it has ended."""
    for name in os.listdir(directory):
        if (match := _LIVE_GAUGE.fullmatch(name)) and not Path("/proc", match[1]).exists():
            (directory / name).unlink(missing_ok=True)


class _MemoryCollector(Collector):
    """Reads the memory of the container at each scrape."""

    def collect(self) -> Iterator[Metric]:
        definition = metrics.LAUNCHER_TABLE["worker_memory_bytes"]
        family = GaugeMetricFamily(definition.name, definition.help, labels=definition.labels)
        for kind, value in cgroups.read_memory().items():
            family.add_metric([kind], value)
        yield family


def _build_registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    versions = {
        "version": _version("kubedet"),
        "torch": _version("torch"),
        "python": platform.python_version(),
    }
    definition = metrics.LAUNCHER_TABLE["build_info"]
    build = Gauge(definition.name, definition.help, definition.labels, registry=registry)
    build.labels(**versions).set(1)
    registry.register(_MemoryCollector())
    return registry


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown"
