"""What the kernel has to be asked: children, orphans, and whether it killed for lack of memory.

PID 1 of a container inherits every orphan and has to collect it; where the launcher is not PID 1 (a laptop),
it asks the kernel to be treated alike, so that nothing it started outlives it unseen.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def start_module(
    module: str,
    *,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str],
    output: IO[str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start ``python -m module`` in a session of its own: a Ctrl-C on the terminal does not reach it.

    `output` takes standard output and error; None leaves them where they are.
    """
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env=dict(environment),
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def adopt_orphans() -> None:
    """Let orphaned descendants become children of this process, as they do for PID 1."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent() -> None:
    """Have this process sent SIGTERM when its parent dies, even by SIGKILL."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _prctl(option: int, argument: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, argument, 0, 0, 0)


def children() -> set[int]:
    """The process ids of this process's children, zombies included."""
    try:
        return {
            int(child)
            for task in Path("/proc/self/task").iterdir()
            for child in (task / "children").read_text().split()
        }
    except OSError:  # no /proc, or a thread that has just ended
        return set()


def reap_orphans(*, besides: subprocess.Popen[bytes]) -> None:
    """Collect adopted children that have ended; `besides` is left to its own `poll`."""
    if sys.platform != "linux":
        return
    try:
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid == besides.pid:
                return
            os.waitpid(ended.si_pid, 0)
    except ChildProcessError:
        return


def kill_orphans(*, besides: set[int]) -> None:
    """Kill the process groups of all children but `besides`: ranks that a dead agent left behind."""
    for pid in children() - besides:
        try:
            group = os.getpgid(pid)
            if group != os.getpgrp():
                os.killpg(group, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            continue


def count_memory_kills() -> int:
    """How often the kernel has killed in this container for lack of memory; 0 where it cannot be told.

    Reads ``oom_kill`` of the control group, version 2 (``memory.events``) or 1 (``memory.oom_control``).
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
    """Where the counter may lie: the own group as /proc tells it, then the root that a container sees."""
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
