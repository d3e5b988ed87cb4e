"""The operator as a process that is measured."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

WRITES = ("create", "apply", "update", "patch", "delete")
"""Verbs of requests that change something."""

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.M)


class OperatorProcess:
    """The operator as a process, and what the kernel and its own metrics say of it."""

    def __init__(self, kubeconfig: str, *, namespace: str = "") -> None:
        """Start it, for one namespace or for all."""
        with socket.socket() as probe, socket.socket() as other:
            probe.bind(("127.0.0.1", 0))
            other.bind(("127.0.0.1", 0))
            self._port, health_port = probe.getsockname()[1], other.getsockname()[1]
        environment = {
            **os.environ,
            "KUBECONFIG": kubeconfig,
            "KUBEDET_OPERATOR_NAMESPACES": namespace,
            "KUBEDET_OPERATOR_METRICS_PORT": str(self._port),
            "KUBEDET_OPERATOR_HEALTH_PORT": str(health_port),
        }
        log = os.environ.get("KUBEDET_BENCHMARK_LOG", os.devnull)
        self.started = time.monotonic()
        """By the monotonic clock."""
        with open(log, "ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "kubedet_operator"], env=environment, stderr=output
            )

    def is_ready(self) -> bool:
        """Whether it knows the world."""
        try:
            return bool(self._get("/readyz"))
        except OSError:
            return False

    def reconciliations(self) -> float:
        """How many there were; infinitely few while it does not answer, or has more to do."""
        try:
            text = self._get("/metrics")
        except OSError:
            return 0.0
        values = {name: float(value) for name, labels, value in _SAMPLE.findall(text) if not labels}
        waiting = values.get("kubedet_operator_queue_depth", 0.0)
        return 0.0 if waiting else values["kubedet_operator_reconcile_duration_seconds_count"]

    def writes(self) -> Counter[str]:
        """Requests that change something, by verb and resource."""
        counted: Counter[str] = Counter()
        for name, labels, value in _SAMPLE.findall(self._get("/metrics")):
            if name == "kubedet_operator_api_requests_total":
                label = dict(re.findall(r'(\w+)="([^"]*)"', labels))
                if label["verb"] in WRITES:
                    counted[f"{label['verb']} {label['resource']}"] += int(float(value))
        return counted

    def cpu_seconds(self) -> float:
        """CPU time since its start."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mib(self, field: str = "VmRSS") -> float:
        """Its memory now, or at its peak (`VmHWM`)."""
        return resident_mib(self._process.pid, field)

    def stop(self) -> int:
        """End it, if it still runs; returns the code of its end."""
        self._process.terminate()
        return self._process.wait(timeout=30)

    def _get(self, path: str) -> str:
        if self._process.poll() is not None:
            raise SystemExit(f"the operator ended with code {self._process.returncode}")
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=10) as answer:
            return str(answer.read().decode())


def resident_mib(pid: int, field: str = "VmRSS") -> float:
    """The memory of a process now, or at its peak (`VmHWM`)."""
    found = re.search(rf"{field}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found.group(1)) / 1024
