"""The ranks of one worker as processes: how they start, end and are ended, and where their output goes."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from kubedet_trainer.worker import warm
from kubedet_trainer.worker.warm import Program

_COPY_SECONDS = 0.05
_POLL_SECONDS = 0.02


class Ranks:
    """One process for each rank of a group, each in its session. The output of the first is passed on."""

    def __init__(
        self,
        module: str,
        environments: Sequence[Mapping[str, str]],
        *,
        logs: Path,
        using: warm.Standby | None,
    ) -> None:
        """Start them.

        Args:
            module: as for ``python -m``.
            environments: what each rank has in addition to the environment of this process.
            logs: the folder for the output of all groups.
            using: the standby to fork them from, if there is one.
        """
        logs.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=logs))
        self._errors = [folder / str(index) / "stderr.log" for index in range(len(environments))]
        self._programs: list[Program] = []
        self._copies = [
            _Copy(folder / "0" / f"{name}.log", to=stream)
            for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr))
        ]
        self._ended_at: dict[int, float] = {}
        self._killed: set[int] = set()
        for index, environment in enumerate(environments):
            (folder / str(index)).mkdir()
            with (
                (folder / str(index) / "stdout.log").open("wb") as stdout,
                self._errors[index].open("wb") as stderr,
            ):
                self._programs.append(
                    warm.start(
                        module,
                        arguments=[],
                        environment=os.environ,
                        changes=environment,
                        output=(stdout.fileno(), stderr.fileno()),
                        using=using,
                    )
                )
        for copy in self._copies:
            copy.start()

    def poll(self) -> list[int | None]:
        """The exit code of each rank, or None while it runs."""
        codes = [program.poll() for program in self._programs]
        for index, code in enumerate(codes):
            if code is not None:
                self._ended_at.setdefault(index, time.time())
        if None not in codes:
            for copy in self._copies:
                copy.finish()
        return codes

    def own_endings(self) -> list[tuple[int, int]]:
        """Index and exit code of the ranks that have ended, without those that `close` killed at once."""
        return [
            (index, code)
            for index, code in enumerate(self.poll())
            if code is not None and index not in self._killed
        ]

    def ended_at(self, index: int) -> float:
        """The UNIX time at which a rank was seen to have ended."""
        return self._ended_at.get(index, time.time())

    def last_output(self, index: int, *, num_bytes: int) -> str:
        """The end of what a rank wrote to its standard error."""
        with suppress(OSError), self._errors[index].open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - num_bytes))
            return file.read().decode(errors="replace")
        return ""

    def close(self, number: signal.Signals, seconds: float) -> None:
        """Send a signal to ranks that run and their children. Kill those that run after `seconds`."""
        if number == signal.SIGKILL:
            self._killed |= {index for index, code in enumerate(self.poll()) if code is None}
        self._signal(number)
        if not self._wait(seconds):
            self._signal(signal.SIGKILL)
            self._wait(seconds)

    def _signal(self, number: signal.Signals) -> None:
        for program in self._programs:
            if program.poll() is None:
                if program.pid:
                    with suppress(ProcessLookupError):
                        os.killpg(program.pid, number)
                else:
                    program.send_signal(number)

    def _wait(self, seconds: float) -> bool:
        """Wait until all have ended. Returns False if one still runs after `seconds`."""
        deadline = time.monotonic() + seconds
        while None in self.poll():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True


class _Copy(threading.Thread):
    """Passes on what a process writes to a file, line by line."""

    def __init__(self, file: Path, *, to: IO[str]) -> None:
        super().__init__(name=f"copy of {file.name}", daemon=True)
        self._path = file
        self._to = to
        self._finished = threading.Event()

    def run(self) -> None:
        """Copy until `finish`."""
        with self._path.open(errors="replace", newline="") as file:
            while True:
                is_last = self._finished.is_set()
                if text := file.read():
                    self._to.write(text)
                    self._to.flush()
                if is_last:
                    return
                self._finished.wait(_COPY_SECONDS)

    def finish(self) -> None:
        """Copy what is left, and end."""
        if not self._finished.is_set():
            self._finished.set()
            self.join()
