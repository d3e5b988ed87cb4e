"""The process that scores an evaluation: ``python -m kubedet_trainer.training.scorer PID``, by rank 0.

It takes a pickled `Request` from its standard input and gives the result to its standard output; both are
files without a name. It imports no torch, runs at low priority, and ends when the process PID ends.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from kubedet_trainer.errors import HelperKilled, TrainerError
from kubedet_trainer.logs import configure_logging
from kubedet_trainer.telemetry.processes import read_stat
from kubedet_trainer.training import scored
from kubedet_trainer.training.scored import Request, Scored

MODULE = "kubedet_trainer.training.scorer"

_NICENESS = 10
_PARENT_SECONDS = 1.0


class ScorerProcess:
    """Such a process, as rank 0 sees it."""

    def __init__(self, request: Request, *, folder: Path) -> None:
        """Start it; what is exchanged lies in `folder`, and is gone when both processes have ended."""
        self._result = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (it outlives this call)
        with tempfile.TemporaryFile(dir=folder) as file:
            pickle.dump(request, file)
            file.seek(0)
            # It inherits what is blocked: a SIGTERM to all processes of a rank is for the rank to decide on.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", MODULE, str(os.getpid())], stdin=file, stdout=self._result
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it has ended, at most so many seconds; returns whether it has."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def has_ended(self) -> bool:
        """Whether `result` is there; costs microseconds."""
        return self._process.poll() is not None

    def cpu_seconds(self) -> float:
        """The CPU time that it has used, over all threads; 0 once it has ended."""
        stat = read_stat(self._process.pid)
        return stat.cpu_ticks / os.sysconf("SC_CLK_TCK") if stat else 0.0

    def result(self) -> Scored:
        """What it made of the request. Waits for it.

        Raises:
            HelperKilled: it was ended by a signal.
            TrainerError, RuntimeError: what it raised itself.
        """
        self.wait()
        code = self._process.returncode
        with self._result as file:
            if code < 0:
                raise HelperKilled(
                    f"the process that scores an evaluation was ended by {signal.Signals(-code).name}; if "
                    "memory was short, raise the memory limit of the worker"
                )
            if code > 0:
                raise RuntimeError(
                    f"the process that scores an evaluation ended with code {code}, see the log"
                )
            file.seek(0)
            result = pickle.load(file)
        if isinstance(result, Exception):
            raise result
        return cast("Scored", result)

    def kill(self) -> None:
        """End it; nobody needs the result any longer."""
        self._process.kill()
        self._process.wait()
        self._result.close()


@dataclass(frozen=True, kw_only=True)
class Pending:
    """An evaluation whose detections are being scored."""

    iteration: int
    """Of the weights that were evaluated."""
    process: ScorerProcess | None
    """Rank 0's; None on the others."""
    loss: float | None
    """Of the validation split, on rank 0."""
    spent: dict[str, float]
    """What the weights had cost, see `training.reporting.spent`."""


def main() -> None:
    """Score the request on the standard input."""
    threading.Thread(target=_end_with, args=(int(sys.argv[1]),), daemon=True).start()
    os.nice(_NICENESS)
    configure_logging()
    with os.fdopen(os.dup(1), "wb") as output:
        os.dup2(2, 1)  # what a library prints is not the result
        result: Scored | Exception
        try:
            result = scored.score(pickle.load(sys.stdin.buffer))
        except TrainerError as error:
            result = error
        except Exception as error:
            traceback.print_exc()
            result = RuntimeError(f"scoring an evaluation failed: {error!r}; the traceback is in the log")
        pickle.dump(result, output)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
