"""How much memory the container of a worker holds, and how much it may: what its control group counts.

The kernel ends a process of the group at the limit, whatever the ranks think they hold: loader processes,
shared memory and files in memory volumes count too.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
"""Where a container sees its own group; outside of one it is the machine's."""

_UNLIMITED = 2**60
"""Version 1 says no limit with a number near 2**63."""

_FILES = (
    ("memory.current", "memory.max", "memory.stat", "inactive_file"),
    (
        "memory/memory.usage_in_bytes",
        "memory/memory.limit_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)
"""Usage, limit, statistics and the name in them of file pages that go first: of version 2, of version 1."""


def read_memory(root: Path = ROOT) -> dict[str, int]:
    """Bytes by kind: ``working_set``, less file pages that are given up first, and ``limit`` if there is one.

    Empty where no control group can be read, as on macOS.
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
