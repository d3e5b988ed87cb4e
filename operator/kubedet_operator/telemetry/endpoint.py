"""Serves /metrics and /readyz from a thread, so that a busy event loop does not delay them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import prometheus_client

from kubedet_operator.telemetry.health import Health
from kubedet_operator.telemetry.metrics import Metrics

Answer = tuple[str, str]


def serve(port: int, *, metrics: Metrics, health: Health) -> WSGIServer:
    """Start serving on `port` of every address. 0 uses any free port, which `server_port` names.

    Raises:
        OSError: the port is taken.
    """
    exposition = prometheus_client.make_wsgi_app(metrics.registry)
    routes: dict[str, Callable[[], Answer]] = {
        "/readyz": lambda: _answer(None if health.ready else "not ready: waiting for the API server"),
    }

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            answer: Iterable[bytes] = exposition(environ, start_response)
            return answer
        status, text = routes.get(path, lambda: ("404 Not Found", "not found"))()
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [text.encode()]

    server = make_server("", port, application, server_class=_Server, handler_class=_Silent)
    Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server


def _answer(complaint: str | None) -> Answer:
    return ("503 Service Unavailable", complaint) if complaint else ("200 OK", "ok")


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    """Probes and scrapes leave no line in the log."""

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Say nothing."""
