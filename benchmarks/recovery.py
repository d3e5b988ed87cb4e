"""How long a training stands still after a failure: three workers of one rank each, killed in turn.

Each worker is PID 1 with all its processes, and a rendezvous store runs next to them; the ranks really train
a small detector on generated images. A recovery lasts from the kill until every worker has completed a step
with another rank than before. A worker whose PID 1 ended is started again at once, so the time of a kubelet
is not counted. With `--before`, the same is done with the trainer of another checkout, in alternating blocks.
Prints one JSON document: p50 and worst of each case in seconds, and of each phase as far as the trainer
reports it. Goals: a rank 3 s, the processes of a worker below PID 1 5 s (p50).

    python benchmarks/recovery.py [--kills 20] [--before /path/of/another/checkout]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

_WORKERS = 3
_PATIENCE_SECONDS = 240
_STEPS_BETWEEN = 4
"""Steps of every rank before the next kill, so that each recovery starts from a running training."""


class _Fleet:
    """The workers and the store of one job, from one checkout."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as server:
            self._port = server.getsockname()[1]
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(checkout / "trainer"),
            "OMP_NUM_THREADS": "1",
            "KUBEDET_RECIPE": "smoke_faster_rcnn",
            "KUBEDET_OVERRIDES": json.dumps({"schedule.epochs": 100000, "data.num_workers": 0}),
            "KUBEDET_DATASET_URI": "synthetic://shapes",
            "KUBEDET_CHECKPOINT_URI": (folder / "checkpoints").as_uri(),
            "KUBEDET_CHECKPOINT_INTERVAL_ITERATIONS": "2",
            "KUBEDET_EVALUATE_EVERY_EPOCHS": "0",
            "KUBEDET_REPLICAS": str(_WORKERS),
            "KUBEDET_RENDEZVOUS_ENDPOINT": f"127.0.0.1:{self._port}",
            "KUBEDET_RENDEZVOUS_ID": "recovery-0",
            "KUBEDET_LOCAL_ADDRESS": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": "lo",
            "KUBEDET_METRICS_PORT": "0",
            "KUBEDET_GRACE_SECONDS": "30",
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> _Fleet:
        self._start("store", "kubedet_trainer.worker.rendezvous")
        for index in range(_WORKERS):
            self._start_worker(index)
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._processes):
            self._kill(name)

    def _start_worker(self, index: int) -> None:
        work = self._folder / f"work-{index}"
        self._start(
            str(index),
            "kubedet_trainer.worker.launch",
            KUBEDET_REPLICA_INDEX=str(index),
            KUBEDET_WORK_DIRECTORY=str(work),
        )

    def _start(self, name: str, module: str, **environment: str) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", module],
                env={**self._environment, **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def beats(self, index: int) -> dict[str, int]:
        """When each rank of a worker that runs has last completed a step, by its process id."""
        found = {}
        for file in (self._folder / f"work-{index}" / "heartbeats" / "touched").glob("*"):
            pid = file.suffix[1:]
            if Path(f"/proc/{pid}").exists():
                found[pid] = file.stat().st_mtime_ns
        return found

    def await_steps(self) -> None:
        """Wait until every worker has completed a few more steps."""
        for _ in range(_STEPS_BETWEEN):
            before = [self.beats(index) for index in range(_WORKERS)]
            self._await(lambda before=before: all(  # type: ignore[misc]
                any(stamp > before[index].get(pid, 0) for pid, stamp in self.beats(index).items())
                for index in range(_WORKERS)
            ))  # fmt: skip

    def seconds_until_others_step(self, known: list[set[str]], *, since: float) -> float:
        """Seconds from `since` until every worker has a rank that it did not have and that has stepped."""
        self._await(lambda: all(self.beats(index).keys() - known[index] for index in range(_WORKERS)))
        newest = max(
            min(stamp for pid, stamp in self.beats(index).items() if pid not in known[index])
            for index in range(_WORKERS)
        )
        return max(newest / 1e9, since) - since

    def _await(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not condition():
            for index in range(_WORKERS):  # the operator replaces a pod that has ended
                if self._processes[str(index)].poll() is not None:
                    self._start_worker(index)
            if time.monotonic() > deadline:
                raise TimeoutError(f"no recovery within {_PATIENCE_SECONDS} s; see {self._folder}")
            time.sleep(0.02)

    def phases(self) -> dict[str, float]:
        """Of the newest recovery, as rank 0 reports it."""
        for index in range(_WORKERS):
            try:
                record = json.loads((self._folder / f"work-{index}" / "progress.json").read_text())
            except (FileNotFoundError, ValueError):
                continue
            if record["progress"].get("recovery"):
                return dict(record["progress"]["recovery"]["seconds"])
        return {}

    def below_launcher(self, index: int) -> list[int]:
        """All processes of a worker but PID 1 and its standby."""
        children = _children(self._processes[str(index)].pid)
        standbys = {pid for pid in children if b"worker.standby" in Path(f"/proc/{pid}/cmdline").read_bytes()}
        return [pid for pid in _descendants(self._processes[str(index)].pid) if pid not in standbys]

    def replace_worker(self, index: int) -> None:
        """What the loss of a pod and its replacement are to the processes."""
        self._kill(str(index))
        shutil.rmtree(self._folder / f"work-{index}")
        self._start_worker(index)

    def _kill(self, name: str) -> None:
        process = self._processes.pop(name)
        for pid in [process.pid, *_descendants(process.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _descendants(pid: int) -> list[int]:
    return [found for child in _children(pid) for found in (child, *_descendants(child))]


def _kill_rank(fleet: _Fleet, index: int) -> None:
    for pid in fleet.beats(index):
        os.kill(int(pid), signal.SIGKILL)


def _kill_worker(fleet: _Fleet, index: int) -> None:
    """Kill the agent and its ranks. PID 1 lives, and so does its standby where it has one."""
    for pid in fleet.below_launcher(index):
        os.kill(pid, signal.SIGKILL)


def _kill_pod(fleet: _Fleet, index: int) -> None:
    """Kill all processes of a worker, and start it again at once, with an empty work directory."""
    fleet.replace_worker(index)


CASES = {"rank": _kill_rank, "worker": _kill_worker, "pod": _kill_pod}


def _measure(checkout: Path, kills: int, *, first: int) -> dict[str, list[Any]]:
    """Recoveries of one checkout by case: seconds, and the phases that the trainer reports."""
    found: dict[str, list[Any]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory(prefix="recovery-") as folder, _Fleet(checkout, Path(folder)) as fleet:
        for turn in range(first, first + kills):
            for name, kill in CASES.items():
                fleet.await_steps()
                known = [set(fleet.beats(index)) for index in range(_WORKERS)]
                since = time.time()
                kill(fleet, turn % _WORKERS)
                seconds = fleet.seconds_until_others_step(known, since=since)
                time.sleep(1.5)  # rank 0 writes its progress once a second
                found[name].append({"seconds": round(seconds, 2), "phases": fleet.phases()})
                print(checkout.name, name, found[name][-1], file=sys.stderr, flush=True)
    return found


def _summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = [each["seconds"] for each in found]
    phases: dict[str, list[float]] = {}
    for each in found:
        for phase, value in each["phases"].items():
            phases.setdefault(phase, []).append(value)
    return {
        "kills": len(seconds),
        "p50": round(statistics.median(seconds), 2),
        "worst": max(seconds),
        "phases": {
            phase: {"p50": round(statistics.median(values), 3), "worst": max(values)}
            for phase, values in phases.items()
        },
    }


def main() -> None:
    """Measure every case of every checkout, in blocks that alternate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=20, help="of each case")
    parser.add_argument(
        "--block", type=int, default=5, help="kills of each case before the other checkout's turn"
    )
    parser.add_argument("--before", type=Path, help="another checkout")
    options = parser.parse_args()
    checkouts = {"after": Path(__file__).parents[1]}
    if options.before:
        checkouts = {"before": options.before.resolve(), **checkouts}
    found: dict[str, dict[str, list[Any]]] = {name: {case: [] for case in CASES} for name in checkouts}
    for first in range(0, options.kills, options.block):
        for name, checkout in checkouts.items():
            block = _measure(checkout, min(options.block, options.kills - first), first=first)
            for case, values in block.items():
                found[name][case] += values
    print(
        json.dumps(
            {name: {case: _summary(each) for case, each in cases.items()} for name, cases in found.items()},
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
