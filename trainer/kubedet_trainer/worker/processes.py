"""What only the kernel knows: children, orphans, and processes that it killed for lack of memory.

PID 1 of a container becomes the parent of every orphan and must reap it. Outside of a container the launcher
asks the kernel for the same role, so that no process that it started outlives it unnoticed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from kubedet_trainer.worker.warm import Program

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def start_module(
    module: str,
    *,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str],
    output: IO[str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start ``python -m module`` in a session of its own, so that Ctrl-C on the terminal does not reach it.

    `output` takes its standard output and error. None leaves them on those of this process.
    """
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env=dict(environment),
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def adopt_orphans() -> None:
    """Make this process the parent of its orphaned descendants, as PID 1 is."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent() -> None:
    """Have the kernel send this process SIGTERM when its parent ends, even by SIGKILL."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _prctl(option: int, argument: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, argument, 0, 0, 0)


def fork_obstacle() -> str | None:
    """Why processes that are forked from this one could not work, as "it ..."; None if they can."""
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        return f"has {threads} threads"
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if (device := os.readlink(descriptor)).startswith("/dev/nvidia"):
                return f"has {device} open"
    return None


def children() -> set[int]:
    """The process ids of this process's children, including zombies."""
    try:
        return {
            int(child)
            for task in Path("/proc/self/task").iterdir()
            for child in (task / "children").read_text().split()
        }
    except OSError:  # no /proc, or a thread that has just ended
        return set()


def reap_orphans(*, except_for: Program) -> None:
    """Reap adopted children that have ended, but not `except_for`, whose own `poll` does that."""
    if sys.platform != "linux":
        return
    try:
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid == except_for.pid:
                return
            os.waitpid(ended.si_pid, 0)
    except ChildProcessError:
        return


def kill_orphans(*, except_for: set[int]) -> None:
    """Kill the process groups of all children but `except_for`: the ranks that a dead agent left behind.

    What these leave behind in turn becomes a child of this process, and is killed as well.
    """
    known = set(except_for)
    while orphans := children() - known:
        known |= orphans
        for pid in orphans:
            try:
                group = os.getpgid(pid)
                if group != os.getpgrp():
                    os.killpg(group, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                continue


def count_memory_kills() -> int:
    """How many processes of this container the kernel has killed for lack of memory; 0 if it does not say.

    The count is ``oom_kill`` of the control group, in ``memory.events`` (version 2) or ``memory.oom_control``
    (version 1).
    """
    for path in _memory_event_files(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")):
        try:
            counters = dict(line.split() for line in path.read_text().splitlines())
        except (OSError, ValueError):
            continue
        if "oom_kill" in counters:
            return int(counters["oom_kill"])
    return 0


def _memory_event_files(membership: Path, root: Path) -> list[Path]:
    """The files that may have the count: of the group in /proc, then of the root that a container sees."""
    candidates: list[Path] = []
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            candidates.append(root / group.lstrip("/") / "memory.events")
        elif "memory" in controllers.split(","):
            candidates.append(root / "memory" / group.lstrip("/") / "memory.oom_control")
    return [*candidates, root / "memory.events", root / "memory" / "memory.oom_control"]
