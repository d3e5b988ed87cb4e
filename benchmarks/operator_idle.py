"""Memory and start-up time of the idle operator on the API server that KUBECONFIG names, as JSON.

The baseline is a process that only imports what the operator imports. Goals: resident under 110 MiB, ready
in under 4 s. The cluster needs manifests/crds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

from operator_process import OperatorProcess, resident_mib

GOAL_MIB = 110
GOAL_SECONDS = 4
IDLE_SECONDS = 15
_IMPORTS = "import kubedet_operator.__main__, sys; print(flush=True); sys.stdin.read()"


def main() -> int:
    if not os.environ.get("KUBECONFIG"):
        print(json.dumps({"benchmark": "operator_idle", "skipped": "KUBECONFIG names no cluster"}))
        return 0
    import_seconds, import_mib = _measure_imports()
    operator = OperatorProcess(os.environ["KUBECONFIG"])
    try:
        while not operator.is_ready():
            time.sleep(0.02)
        ready_seconds, cpu_before = time.monotonic() - operator.started, operator.cpu_seconds()
        time.sleep(IDLE_SECONDS)
        mib, cpu_share = operator.resident_mib(), (operator.cpu_seconds() - cpu_before) / IDLE_SECONDS
    finally:
        stopping = time.monotonic()
        exit_code = operator.stop()
        stop_seconds = time.monotonic() - stopping
    print(
        json.dumps(
            {
                "benchmark": "operator_idle",
                "resident_mib": round(mib, 1),
                "resident_goal_mib": GOAL_MIB,
                "import_only_mib": round(import_mib, 1),
                "resident_to_import_ratio": round(mib / import_mib, 2),
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
    return 0 if mib < GOAL_MIB and ready_seconds < GOAL_SECONDS else 1


def _measure_imports() -> tuple[float, float]:
    """Seconds and MiB of a process that imports the operator and does nothing."""
    started = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", _IMPORTS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        seconds = time.monotonic() - started
        mib = resident_mib(process.pid)
        process.communicate()
    return seconds, mib


if __name__ == "__main__":
    sys.exit(main())
