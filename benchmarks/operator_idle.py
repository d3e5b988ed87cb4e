"""Memory and start-up time of the idle operator on the API server that KUBECONFIG names, as JSON.

The baseline is a process that only imports what the operator imports. Goals: resident under 110 MiB, ready
in under 4 s. The cluster needs manifests/crds.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

GOAL_MIB = 110
GOAL_SECONDS = 4
IDLE_SECONDS = 15
_IMPORTS = "import kubedet_operator.__main__, sys; print(flush=True); sys.stdin.read()"


def main() -> int:
    if not os.environ.get("KUBECONFIG"):
        print(json.dumps({"benchmark": "operator_idle", "skipped": "KUBECONFIG names no cluster"}))
        return 0
    import_seconds, import_mib = _measure_imports()
    port = _free_port()
    environment = {**os.environ, "KUBEDET_OPERATOR_METRICS_PORT": str(port)}
    started = time.monotonic()
    operator = subprocess.Popen(
        [sys.executable, "-m", "kubedet_operator"], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        ready_seconds = _wait_until_ready(port, operator) - started
        cpu_before = _cpu_seconds(operator.pid)
        time.sleep(IDLE_SECONDS)
        resident_mib = _resident_mib(operator.pid)
        cpu_share = (_cpu_seconds(operator.pid) - cpu_before) / IDLE_SECONDS
        stopping = time.monotonic()
        operator.terminate()
        exit_code = operator.wait(timeout=30)
        stop_seconds = time.monotonic() - stopping
    finally:
        operator.kill()
        operator.wait()
    print(
        json.dumps(
            {
                "benchmark": "operator_idle",
                "resident_mib": round(resident_mib, 1),
                "resident_goal_mib": GOAL_MIB,
                "import_only_mib": round(import_mib, 1),
                "resident_to_import_ratio": round(resident_mib / import_mib, 2),
                "ready_seconds": round(ready_seconds, 2),
                "ready_goal_seconds": GOAL_SECONDS,
                "import_only_seconds": round(import_seconds, 2),
                "idle_cpu_share_of_a_core": round(cpu_share, 4),
                "stop_seconds": round(stop_seconds, 2),
                "exit_code": exit_code,
            },
            indent=2,
        )
    )
    return 0 if resident_mib < GOAL_MIB and ready_seconds < GOAL_SECONDS else 1


def _measure_imports() -> tuple[float, float]:
    """Seconds and MiB of a process that imports the operator and does nothing."""
    started = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", _IMPORTS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        seconds = time.monotonic() - started
        mib = _resident_mib(process.pid)
        process.communicate()
    return seconds, mib


def _wait_until_ready(port: int, operator: subprocess.Popen[bytes]) -> float:
    """The moment at which the operator says that it reconciles jobs."""
    while operator.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1):
                return time.monotonic()
        except (urllib.error.URLError, OSError):
            time.sleep(0.02)
    raise SystemExit(f"the operator ended with code {operator.returncode}")


def _resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
