"""Heartbeats: each rank touches a file whenever it makes progress, and the launcher sees which rank does not.

A hung rank cannot report itself, least of all one that is stuck in native code, so the launcher watches it
from outside. A signal asks it for the stacks of its threads. `faulthandler` answers whatever the interpreter
does.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kubedet_trainer.telemetry.processes import read_stat

DIRECTORY = "heartbeats"
"""In the work directory: two folders, each with a file for every rank, named by rank and process.

`stacks` has one from a rank's start, `touched` from its first heartbeat.
"""

MIN_STEP_SECONDS = 60.0
"""A step may always take this long, however fast the others were: storage and networks pause sometimes."""

_STEPS = 100
"""How many of the last steps the median is taken over."""

COMPUTING_SECONDS = 5.0
"""How often `Heartbeat.computing` looks whether a process has used CPU time."""

_COMPUTING_SHARE = 0.1
"""The least share of a core that counts as computing: threads that only poll use less."""

PEER_SECONDS = 10.0
"""How much longer a rank may be silent that waits for ranks of other workers, as far as its own worker can
tell: if one of theirs is stopped, that one is the cause, and its own worker says so first."""

_STOPPED = "its process is stopped, as by SIGSTOP"
_TOUCHED = "touched"
_STACKS = "stacks"

_STACKS_SIGNAL = signal.SIGUSR2
_STACKS_SECONDS = 2.0
"""How long the launcher waits for stacks. A stopped process never writes any."""


def announce(work_directory: Path, *, rank: int) -> None:
    """Tell the launcher of this rank before it joins the others.

    Until its first heartbeat a rank may wait for others for any time. From here on it must not be stopped.
    """
    os.close(_open_stacks(work_directory, _name(rank)))


class Heartbeat:
    """The heartbeats of this process."""

    def __init__(self, work_directory: Path, *, rank: int, median_steps: int = 0) -> None:
        """The launcher expects nothing before the first `beat`.

        Args:
            work_directory: the worker's, which the launcher shares.
            rank: the number of this rank.
            median_steps: how many times the median step a step may take; 0 sets no such limit.
        """
        name = _name(rank)
        touched = work_directory / DIRECTORY / _TOUCHED
        touched.mkdir(parents=True, exist_ok=True)
        self._file = touched / name
        # A descriptor, because it stays open for the signal until the process ends.
        descriptor = _open_stacks(work_directory, name)
        faulthandler.register(_STACKS_SIGNAL, file=descriptor, all_threads=True)
        self._median_steps = median_steps
        self._steps: deque[float] = deque(maxlen=_STEPS)

    def beat(self) -> None:
        """Show that this rank has made progress, and that its present work is not a step."""
        self._file.write_text("")

    def beat_again(self) -> None:
        """`beat`, unless this would be the first one: for waits before the launcher expects anything."""
        if self._file.exists():
            self.beat()

    @contextmanager
    def computing(self, cpu_seconds: Callable[[], float] = time.process_time) -> Iterator[None]:
        """Beat within the block as long as a process computes, for work without steps of its own.

        A process that waits for something that never comes uses no CPU time, so its hang is still found.

        Args:
            cpu_seconds: the CPU time that the process has used; that of this one unless told otherwise.
        """
        ended = threading.Event()
        watcher = threading.Thread(target=self._beat_while_computing, args=(ended, cpu_seconds), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()

    def _beat_while_computing(self, ended: threading.Event, cpu_seconds: Callable[[], float]) -> None:
        before = cpu_seconds()
        while not ended.wait(COMPUTING_SECONDS):
            now = cpu_seconds()
            if now - before > COMPUTING_SECONDS * _COMPUTING_SHARE:
                self.beat()
            before = now

    def beat_step(self, seconds: float) -> None:
        """Show that this rank has completed a step in `seconds`, and now works on the next one."""
        if not self._median_steps:
            self.beat()
            return
        self._steps.append(seconds)
        allowed = max(self._median_steps * statistics.median(self._steps), MIN_STEP_SECONDS)
        self._file.write_text(f"{allowed:.1f}")


@dataclass(frozen=True, kw_only=True)
class HungRank:
    """A rank whose last heartbeat is too long ago."""

    rank: int
    message: str
    """How long it may be silent, and which field says so."""
    stacks: list[str]
    """What each of its threads is doing, in lines. A process that is stopped does not say."""


class HangWatch:
    """Finds the rank that hangs, from the heartbeats of all ranks of this worker."""

    def __init__(
        self,
        work_directory: Path,
        *,
        patience_seconds: float,
        peer_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Watch the ranks of one worker.

        Args:
            work_directory: the worker's.
            patience_seconds: how long any rank may be silent.
            peer_seconds: how much longer, unless the rank is stopped: 0 for a worker that is alone.
            clock: seconds, from a clock that stops while the machine sleeps.
        """
        self._directory = work_directory / DIRECTORY
        self._patience_seconds = patience_seconds
        self._peer_seconds = peer_seconds
        self._clock = clock
        self._seen: dict[Path, tuple[int, float]] = {}

    def find_hung(self) -> HungRank | None:
        """The rank that has been silent for too long, with its stacks.

        Of several it is one that is stopped: the others wait for it. Else it is the one that has been silent
        for longest.
        """
        silent = [(_is_stopped(_pid(file)), seconds, file) for seconds, file in self._silences()]
        for stopped, seconds, file in sorted(silent, reverse=True):
            allowed, message = self._allowed(file)
            if seconds <= allowed + (0.0 if stopped else self._peer_seconds):
                continue
            rank = int(file.stem)
            if stopped:  # it cannot answer
                return HungRank(rank=rank, message=f"{message}; {_STOPPED}", stacks=[])
            stacks = _request_stacks(_pid(file), self._directory / _STACKS / file.name)
            return HungRank(rank=rank, message=message, stacks=stacks)
        return None

    def _allowed(self, file: Path) -> tuple[float, str]:
        """How many seconds a rank may be silent in its present work, and the message if it is longer."""
        said = file.read_text() if file.exists() else ""
        step, any_work = float(said or "inf"), self._patience_seconds
        policy = "must be within spec.failurePolicy"
        if step < any_work:
            return step, f"no step for {step:.0f} s, {policy}.hangMedianSteps times the median step"
        return any_work, f"no progress for {any_work} s, {policy}.hangTimeoutSeconds"

    def _silences(self) -> list[tuple[float, Path]]:
        """For each rank that still runs, the seconds since its last heartbeat and the file of that.

        A rank without any heartbeat is silent from the time at which it was stopped.
        """
        now = self._clock()
        silences = []
        for name in [file.name for file in (self._directory / _STACKS).glob("*")]:
            file = self._directory / _TOUCHED / name
            if not _is_running(_pid(file)):
                continue
            stamp = file.stat().st_mtime_ns if file.exists() else int(_is_stopped(_pid(file)))
            if not stamp:
                self._seen.pop(file, None)
                continue
            if self._seen.get(file, (None, 0.0))[0] != stamp:
                self._seen[file] = (stamp, now)
            silences.append((now - self._seen[file][1], file))
        return silences


def _name(rank: int) -> str:
    return f"{rank}.{os.getpid()}"


def _open_stacks(work_directory: Path, name: str) -> int:
    folder = work_directory / DIRECTORY / _STACKS
    folder.mkdir(parents=True, exist_ok=True)
    return os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)


def _pid(file: Path) -> int:
    return int(file.suffix[1:])


def _is_stopped(pid: int) -> bool:
    """Whether a signal has stopped a process."""
    stat = read_stat(pid)
    return stat is not None and stat.state == "T"


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _request_stacks(pid: int, file: Path) -> list[str]:
    with suppress(ProcessLookupError):
        os.kill(pid, _STACKS_SIGNAL)
    deadline = time.monotonic() + _STACKS_SECONDS
    before, size = -1, 0
    while size != before or size == 0:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
        before, size = size, file.stat().st_size
    return file.read_text(errors="replace").splitlines()
