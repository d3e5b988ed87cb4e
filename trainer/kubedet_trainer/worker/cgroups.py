"""The memory that the container of a worker uses, and its limit, as its control group counts them.

At the limit the kernel kills a process of the group. Loader processes, shared memory and files in memory
volumes count too, so the group may use much more than its ranks.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
"""A container sees its own group here, and a process outside of containers that of the machine."""

_UNLIMITED = 2**60
"""Without a limit, version 1 has a number near 2**63."""

_FILES = (
    ("memory.current", "memory.max", "memory.stat", "inactive_file"),
    (
        "memory/memory.usage_in_bytes",
        "memory/memory.limit_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)
"""Versions 2 and 1: usage, limit, statistics, and their name for pages that the kernel drops first."""


def read_memory(root: Path = ROOT) -> dict[str, int]:
    """Bytes by kind: ``working_set``, and ``limit`` if there is one.

    The working set leaves out file pages that the kernel drops first. The result is empty where no control
    group can be read, as on macOS.
    """
    for usage, limit, statistics, inactive in _FILES:
        try:
            used = int((root / usage).read_text())
            counted = dict(line.split() for line in (root / statistics).read_text().splitlines())
            allowed = (root / limit).read_text().strip()
        except (OSError, ValueError):
            continue
        found = {"working_set": max(0, used - int(counted.get(inactive, 0)))}
        if allowed != "max" and int(allowed) < _UNLIMITED:
            found["limit"] = int(allowed)
        return found
    return {}
