"""PID 1 of a worker as a process, whose ranks do what a test asks of them."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

RANKS = Path(__file__).parent / "integration" / "trainer"
"""Where the module of the ranks is."""

LAUNCH = """
import os, sys
from kubedet_trainer.worker import launch
from kubedet_trainer.logs import configure_logging
configure_logging()
sys.exit(launch.run(os.environ, options=launch.Options(rank_module="stub_rank")))
"""


def await_true(condition: Callable[[], Any], *, seconds: float = 240) -> None:
    """Poll until `condition` holds. The bound only ends a test that would hang."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.05)


def descendants(pid: int) -> list[int]:
    """The process ids below `pid`, nearest first."""
    found: list[int] = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *descendants(int(child))]
    return found


class Worker:
    """One worker as a process, with the files that it writes."""

    def __init__(self, directory: Path, *, plan: list[Mapping[str, list[str]]], **environment: str) -> None:
        self.directory = directory
        self.marks = directory / "marks"
        self.message_path = directory / "termination"
        self.marks.mkdir(parents=True, exist_ok=True)
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(RANKS),
            "KUBEDET_RECIPE": "smoke_faster_rcnn",
            "KUBEDET_DATASET_URI": directory.parent.as_uri(),
            "KUBEDET_CHECKPOINT_URI": (directory / "checkpoints").as_uri(),
            "KUBEDET_WORK_DIRECTORY": str(directory / "work"),
            "KUBEDET_TERMINATION_MESSAGE_PATH": str(self.message_path),
            "KUBEDET_METRICS_PORT": "0",
            "KUBEDET_GRACE_SECONDS": "40",
            "STUB_DIRECTORY": str(self.marks),
            "STUB_STEPS": json.dumps(plan),
            **environment,
        }
        self.start()

    def start(self) -> None:
        """Start it, also once more."""
        self.log = (self.directory / "log").open("a+")
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH], env=self._environment, stdout=self.log, stderr=self.log
        )

    def output(self) -> str:
        """What it has logged."""
        return (self.directory / "log").read_text()

    def mark(self, name: str) -> None:
        """Let ranks that wait for this mark go on."""
        (self.marks / name).touch()

    def await_mark(self, name: str) -> None:
        """Wait until a rank has set a mark."""
        await_true(lambda: (self.marks / name).exists() or self.process.poll() is not None)
        assert (self.marks / name).exists(), self.output()

    def end(self, *, seconds: float = 240) -> int:
        """Wait for its end, and return the exit code."""
        code = self.process.wait(timeout=seconds)
        self.log.close()
        return code

    def message(self) -> dict[str, Any]:
        """Its termination message."""
        document: dict[str, Any] = json.loads(self.message_path.read_text())
        return document

    def kill_all(self) -> None:
        """Kill all processes at once, as the loss of a node does."""
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()


def steps(worker: Worker) -> list[str]:
    """The process id of the rank of every step so far."""
    path = worker.directory / "work" / "steps"
    return path.read_text().splitlines() if path.exists() else []


def await_new_steps(*workers: Worker) -> None:
    """Wait until ranks that did not run before have trained on every worker."""

    def has_trained_or_ended(worker: Worker, known: set[str]) -> bool:
        return not known.issuperset(steps(worker)) or worker.process.poll() is not None

    before = [set(steps(worker)) for worker in workers]
    for worker, known in zip(workers, before, strict=True):
        await_true(functools.partial(has_trained_or_ended, worker, known))
        assert worker.process.poll() is None, worker.output()


def await_more_steps(*workers: Worker) -> None:
    """Wait until every worker has trained on."""
    for worker in workers:
        before = len(steps(worker))
        await_true(lambda worker=worker, before=before: len(steps(worker)) > before + 10)  # type: ignore[misc]
        assert worker.process.poll() is None, worker.output()


def processes_of(worker: Worker) -> list[int]:
    """The agent of a worker and its ranks, without the launcher and the standby."""
    (standby,) = descendants(worker.process.pid)[:1]
    return descendants(standby)
