"""How much memory a piece of work takes at most, as the kernel counts it (proc(5), clear_refs and VmHWM)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def memory_below(num_bytes: int, *, what: str) -> Iterator[None]:
    """Fail if this process needs so many bytes more within the block, however briefly."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak()
    yield
    taken = _peak() - before
    assert taken < num_bytes, f"{what}: took {taken / 2**20:.0f} MiB"


def _peak() -> int:
    found = re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.M)
    assert found is not None
    return int(found.group(1)) * 1024
