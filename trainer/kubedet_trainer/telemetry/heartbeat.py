"""Signs of life: each rank touches a file whenever it gets on, and the launcher sees which ones do not.

A rank that hangs cannot tell, least of all one that is stuck in native code: it is watched from outside, and
asked for the stacks of its threads by a signal that `faulthandler` answers whatever the interpreter does.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import statistics
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

DIRECTORY = "heartbeats"
"""In the work directory: two folders with a file for each rank, named by rank and process."""

LEAST_STEP_SECONDS = 60.0
"""No step is too long before this, however fast the others were: storage and networks pause now and then."""

_STEPS = 100
"""Steps that the median is taken of."""

_TOUCHED = "touched"
_STACKS = "stacks"

_STACKS_SIGNAL = signal.SIGUSR2
_STACKS_SECONDS = 2.0
"""How long stacks are waited for: a stopped process never writes any."""


class Heartbeat:
    """The signs of life of this process."""

    def __init__(self, work_directory: Path, *, rank: int, median_steps: int = 0) -> None:
        """Nothing is expected of the rank before its first `beat`.

        With `median_steps`, a step may take so many times the median of those before it.
        """
        name = f"{rank}.{os.getpid()}"
        touched, stacks = (work_directory / DIRECTORY / folder for folder in (_TOUCHED, _STACKS))
        for folder in (touched, stacks):
            folder.mkdir(parents=True, exist_ok=True)
        self._file = touched / name
        self._stacks = (stacks / name).open("w")  # never closed: a signal writes it
        faulthandler.register(_STACKS_SIGNAL, file=self._stacks, all_threads=True)
        self._median_steps = median_steps
        self._steps: deque[float] = deque(maxlen=_STEPS)

    def beat(self) -> None:
        """Show that this rank has got on, and that what it does now is no step."""
        self._file.write_text("")

    def beat_step(self, seconds: float) -> None:
        """Show that this rank has made a step, which took so long, and does the next one."""
        if not self._median_steps:
            self.beat()
            return
        self._steps.append(seconds)
        allowed = max(self._median_steps * statistics.median(self._steps), LEAST_STEP_SECONDS)
        self._file.write_text(f"{allowed:.1f}")


@dataclass(frozen=True, kw_only=True)
class HungRank:
    """A rank that has shown no sign of life for too long."""

    rank: int
    message: str
    """For how long it may be silent, and who says so."""
    stacks: list[str]
    """Lines: what each of its threads is doing."""


class HangWatch:
    """What the launcher knows about the ranks' signs of life."""

    def __init__(
        self,
        work_directory: Path,
        *,
        patience_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Ranks may be silent so long, by a clock that stands still while the machine sleeps."""
        self._directory = work_directory / DIRECTORY
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._seen: dict[Path, tuple[int, float]] = {}

    def find_hung(self) -> HungRank | None:
        """The rank that has been silent for longest, if that is too long; its stacks are asked for."""
        for seconds, file in sorted(self._silences(), reverse=True):
            allowed, message = self._allowed(file)
            if seconds > allowed:
                rank, pid = map(int, file.name.split("."))
                stacks = _ask_for_stacks(pid, self._directory / _STACKS / file.name)
                return HungRank(rank=rank, message=message, stacks=stacks)
        return None

    def _allowed(self, file: Path) -> tuple[float, str]:
        """Seconds that a rank may be silent now, and what to say when it was silent for longer."""
        step, any_work = float(file.read_text() or "inf"), self._patience_seconds
        policy = "must be within spec.failurePolicy"
        if step < any_work:
            return step, f"no step for {step:.0f} s, {policy}.hangMedianSteps times the median step"
        return any_work, f"no sign of life for {any_work} s, {policy}.hangTimeoutSeconds"

    def _silences(self) -> list[tuple[float, Path]]:
        """Seconds since the last sign of life of each rank that still runs, and its file."""
        now = self._clock()
        silences = []
        for file in (self._directory / _TOUCHED).glob("*"):
            if not _is_running(int(file.suffix[1:])):
                continue
            stamp = file.stat().st_mtime_ns
            if self._seen.get(file, (None, 0.0))[0] != stamp:
                self._seen[file] = (stamp, now)
            silences.append((now - self._seen[file][1], file))
        return silences


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _ask_for_stacks(pid: int, file: Path) -> list[str]:
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
