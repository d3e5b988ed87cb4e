"""How long each phase of a recovery took: the agent notes those before rank 0 starts, rank 0 the others.

All of it is steady time (`time.monotonic`), which the processes of a machine share: no duration depends on a
clock that can be set.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from kubedet_trainer import contract
from kubedet_trainer.contract import Recovery, RecoveryPhase
from kubedet_trainer.contract.times import format_now
from kubedet_trainer.storage.files import write_json
from kubedet_trainer.telemetry.processes import read_stat

_MARKS_FILE = "marks.json"
_BOOT = Path("/proc/sys/kernel/random/boot_id")
"""Steady times of different boots of a machine cannot be compared."""


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Steady times that rank 0 leaves to the next one of its worker; None where there was none."""

    written: float | None = None
    """When it last wrote its progress."""
    last_step: float | None = None
    """When its last iteration ended."""

    def write(self, work_directory: Path) -> None:
        """Leave them in the work directory."""
        write_json(work_directory / _MARKS_FILE, {**asdict(self), "boot": _boot()})


def read_marks(work_directory: Path) -> Marks:
    """What the rank 0 before this one left, since the machine was started."""
    try:
        found = json.loads((work_directory / _MARKS_FILE).read_text())
    except FileNotFoundError:
        return Marks()
    return Marks(**found) if found.pop("boot") == _boot() else Marks()


class AgentTimes:
    """What the agent notes between a loss and the start of the next ranks."""

    def __init__(self, work_directory: Path) -> None:
        self._file = work_directory / contract.RECOVERY_FILE
        self._ends: dict[str, float] = {}

    def note(self, phase: RecoveryPhase, *, at: float | None = None) -> None:
        """Note that a phase has ended now, or `at` a steady time. The first one begins a recovery."""
        if phase is RecoveryPhase.NOTICE:
            self._ends = {}
        elif not self._ends:
            return
        self._ends[phase] = time.monotonic() if at is None else at

    def write(self) -> None:
        """Leave the times to rank 0; nothing, where the ranks did not start after a loss."""
        if self._ends:
            write_json(self._file, self._ends)
            self._ends = {}
        else:
            self._file.unlink(missing_ok=True)


class RankTimes:
    """What rank 0 notes from its start to the end of its first iteration."""

    def __init__(self, work_directory: Path) -> None:
        """Take up the times of the agent. The modules of this process are imported by now."""
        self._ends = _read(work_directory / contract.RECOVERY_FILE)
        self._ends[RecoveryPhase.START] = _process_start()
        self.note(RecoveryPhase.IMPORT)
        self._restore_seconds = 0.0

    def note(self, phase: RecoveryPhase) -> None:
        """Note that a phase has ended now."""
        self._ends[phase] = time.monotonic()

    def note_restore(self, seconds: float) -> None:
        """Note how long it took to load the checkpoint, as a part of the preparation."""
        self._restore_seconds = seconds

    def finish(self, *, step_seconds: float, last_step: float | None) -> Recovery | None:
        """The recovery that the first iteration ends; None where the ranks did not start after a loss.

        Args:
            step_seconds: of this iteration.
            last_step: steady time at which the last iteration before the loss ended, if that is known.
        """
        if RecoveryPhase.NOTICE not in self._ends:
            return None
        now = time.monotonic()
        marks = {phase: self._ends[phase] for phase in RecoveryPhase if phase in self._ends}
        before = marks[RecoveryPhase.NOTICE] if last_step is None else last_step
        seconds: dict[str, float] = {}
        for phase, end in marks.items():
            seconds[phase] = end - before
            before = end
        seconds[RecoveryPhase.PREPARE] = now - before - self._restore_seconds - step_seconds
        seconds[RecoveryPhase.RESTORE] = self._restore_seconds
        seconds[RecoveryPhase.STEP] = step_seconds
        rounded = {phase: round(max(0.0, value), 3) for phase, value in seconds.items()}
        return Recovery(time=format_now(timespec="milliseconds"), seconds=rounded)


def _read(file: Path) -> dict[str, float]:
    try:
        found: dict[str, float] = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    return found


def _boot() -> str:
    return _BOOT.read_text().strip() if _BOOT.exists() else ""


def _process_start() -> float:
    """Steady time at which this process began: was forked, if it was. Now, where the system does not say."""
    stat = read_stat("self")
    if stat is None:
        return time.monotonic()
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return time.monotonic() - uptime + stat.start_ticks / os.sysconf("SC_CLK_TCK")
