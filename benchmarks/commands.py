"""How long a user waits for `kubedet --help` and `kubedet recipes`, beside a bare Python; prints JSON.

Goals: `--help` within 0.3 s; neither imports torch, kopf or the Kubernetes client.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

RUNS = 9
COMMANDS = {
    "bare python": ["-c", "pass"],
    "kubedet --help": ["-m", "kubedet_trainer.commands.kubedet", "--help"],
    "kubedet recipes": ["-m", "kubedet_trainer.commands.kubedet", "recipes"],
}
HEAVY = ("torch", "kopf", "kubernetes")


def measure(arguments: list[str]) -> dict[str, object]:
    """Seconds of wall time over `RUNS` runs, and which of the `HEAVY` packages a run imports."""
    seconds = []
    for _ in range(RUNS):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    traced = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], check=True, capture_output=True, text=True
    )
    modules = {line.rpartition("|")[2].strip() for line in traced.stderr.splitlines()}
    return {
        "median_seconds": round(statistics.median(seconds), 3),
        "spread_seconds": [round(min(seconds), 3), round(max(seconds), 3)],
        "imports": [name for name in HEAVY if name in modules],
    }


if __name__ == "__main__":
    print(json.dumps({name: measure(arguments) for name, arguments in COMMANDS.items()}, indent=2))
