"""The operator as a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def wait_for(look: Callable[[], Any], what: str, *, seconds: float = 20) -> Any:
    """What `look` returns once that is true."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, f"no {what} within {seconds} s"
        time.sleep(0.1)
    return found


def _get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError):
        return ""


@dataclass
class OperatorProcess:
    """The operator as a process of its own, with a log file and a port for its metrics."""

    kubeconfig: Path
    log: Path
    namespaces: str
    """Those that it serves."""
    port: int = 0
    health_port: int = 0
    program: tuple[str, ...] = ("-m", "kubedet_operator")
    """Arguments of Python."""
    environment: dict[str, str] = field(default_factory=dict)
    """In addition to that of the tests."""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start it; `wait_until_ready` or a line of the log tell how that goes."""
        with socket.socket() as probe, socket.socket() as other:
            probe.bind(("127.0.0.1", 0))
            other.bind(("127.0.0.1", 0))
            self.port, self.health_port = probe.getsockname()[1], other.getsockname()[1]
        environment = {
            **os.environ,
            "KUBECONFIG": str(self.kubeconfig),
            "KUBEDET_OPERATOR_NAMESPACES": self.namespaces,
            "KUBEDET_OPERATOR_METRICS_PORT": str(self.port),
            "KUBEDET_OPERATOR_HEALTH_PORT": str(self.health_port),
            "KUBEDET_OPERATOR_PROGRESS_INTERVAL_SECONDS": "1",
            **self.environment,
        }
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, *self.program], env=environment, stdout=output, stderr=output
            )

    def get(self, path: str) -> str:
        """The answer to a request to its metrics port; empty while there is none."""
        return _get(f"http://127.0.0.1:{self.port}{path}")

    def is_alive(self) -> bool:
        """Whether the liveness probe succeeds."""
        return bool(_get(f"http://127.0.0.1:{self.health_port}/healthz"))

    def metric(self, name: str) -> float:
        """A metric without labels; 0 while there is none."""
        found = re.search(rf"^{name} (\S+)$", self.get("/metrics"), re.M)
        return float(found.group(1)) if found else 0.0

    def wait_until_ready(self) -> None:
        """Return once jobs are reconciled."""
        wait_for(lambda: self.get("/readyz") == "ok", f"readiness; the log: {self.log}")

    def lines(self) -> list[dict[str, Any]]:
        """The log, which is JSON without a terminal."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it, and return its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        try:
            return self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """End it without grace, if it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
