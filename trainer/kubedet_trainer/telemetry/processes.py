"""What the kernel says about a process. Only Linux does."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class ProcessStat(NamedTuple):
    """A few fields of ``/proc/PID/stat``, which proc_pid_stat(5) numbers from 1."""

    state: str
    """R, S, D, T, ...: field 3."""
    cpu_ticks: int
    """CPU time of all its threads, in user mode and in the kernel: fields 14 and 15."""
    start_ticks: int
    """When it began, counted from the start of the machine: field 22."""


def read_stat(pid: int | str) -> ProcessStat | None:
    """The fields of process `pid`, which may be ``self``; None if it is gone, or the system does not say."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name, field 2, is in brackets and may have some itself, and spaces.
    fields = text.rpartition(")")[2].split()
    return ProcessStat(
        state=fields[0], cpu_ticks=int(fields[11]) + int(fields[12]), start_ticks=int(fields[19])
    )
