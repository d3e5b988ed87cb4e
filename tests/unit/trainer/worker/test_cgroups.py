"""The memory of a container, from either version of control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubedet_trainer.worker import cgroups

VERSION_2 = {"memory.current": "900", "memory.max": "{}", "memory.stat": "anon 500\ninactive_file 300"}
VERSION_1 = {
    "memory/memory.usage_in_bytes": "900",
    "memory/memory.limit_in_bytes": "{}",
    "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 300",
}


@pytest.mark.parametrize(
    ("files", "limit", "expected"),
    [
        (VERSION_2, "1000", {"working_set": 600, "limit": 1000}),
        (VERSION_2, "max", {"working_set": 600}),
        (VERSION_1, "1000", {"working_set": 600, "limit": 1000}),
        (VERSION_1, "9223372036854771712", {"working_set": 600}),
        ({}, "", {}),
    ],
)
def test_file_pages_that_the_kernel_drops_first_do_not_count(
    tmp_path: Path, files: dict[str, str], limit: str, expected: dict[str, int]
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{text.format(limit)}\n")
    assert cgroups.read_memory(tmp_path) == expected


def test_memory_of_this_machine_is_read() -> None:
    usages = ("memory.current", "memory/memory.usage_in_bytes")
    has_group = any((cgroups.ROOT / usage).is_file() for usage in usages)
    assert (cgroups.read_memory().get("working_set", 0) > 0) == has_group
