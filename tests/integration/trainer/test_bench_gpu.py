"""The script for the day that a GPU is there runs, on a CPU, to its end, and never beyond its time."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import gpu
import pytest

SCRIPT = Path(gpu.__file__)
TASKS = ["speed one tf32", "speed two tf32", "speed three tf32", "speed four tf32", "speed five tf32"]
STUB = """
import json, os, sys, time
notes, *tasks = sys.argv[1:]
with open(notes, "a", buffering=1) as file:
    print(json.dumps({"machine": {"device": "a stub"}}), file=file)
    for task in tasks:
        name = task.split()[1]
        if name == "two":
            os.abort()
        if name == "three":
            time.sleep(1000)
        passed = [] if name != "four" else [{"check": task, "passed": False, "error": "by itself"}]
        print(json.dumps({"task": task, "speed": [{"recipe": name}], "checks": passed}), file=file)
        if name == "four":
            sys.exit(1)
"""
"""Does what ``gpu_tasks.py`` may do, without torch: the tasks crash, hang, fail and succeed."""


def _supervise(folder: Path, *, seconds: float, task_seconds: float = 1.0) -> dict[str, object]:
    notes = folder / "notes.jsonl"
    stub = folder / "stub.py"
    stub.write_text(STUB)
    supervisor = gpu.Supervisor(
        command=[sys.executable, str(stub), str(notes)],
        notes=notes,
        end=time.monotonic() + seconds,
        task_seconds=task_seconds,
    )
    return gpu.collect(supervisor.run(TASKS), tasks=TASKS)


def test_a_task_that_crashes_hangs_or_fails_costs_its_own_figure(tmp_path: Path) -> None:
    figures = _supervise(tmp_path, seconds=600, task_seconds=5)
    assert figures["device"] == "a stub"
    assert figures["speed"] == [{"recipe": name} for name in ("one", "four", "five")]
    assert figures["checks"] == [
        {"check": "speed two tf32", "passed": False, "error": "ended with code -6"},
        {"check": "speed three tf32", "passed": False, "error": "took longer than 5 s"},
        {"check": "speed four tf32", "passed": False, "error": "by itself"},
    ]
    assert figures["missing"] == []


def test_what_hangs_ends_with_the_time_of_all_and_leaves_what_was_done(tmp_path: Path) -> None:
    figures = _supervise(tmp_path, seconds=20, task_seconds=600)
    assert figures["speed"] == [{"recipe": "one"}]
    assert figures["missing"] == TASKS[2:]


def test_a_device_that_cannot_be_used_is_told_once(tmp_path: Path) -> None:
    notes = tmp_path / "notes.jsonl"
    command = [sys.executable, "-c", "raise SystemExit(65)"]
    supervisor = gpu.Supervisor(command=command, notes=notes, end=time.monotonic() + 600)
    with pytest.raises(SystemExit, match="ended with code 65 before its first task"):
        supervisor.run(TASKS)


def test_the_script_for_a_gpu_is_rehearsed_on_a_cpu(tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--device", "cpu", "--steps", "1", "--seconds", "3600", "--output", output],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(output.read_text())
    assert [row["recipe"] for row in figures["speed"]] == ["smoke_rpn"]
    assert all(row["finite"] and row["seconds_per_iteration"] > 0 for row in figures["speed"])
    assert [(row["recipe"], row["obstacle"]) for row in figures["compiled"]] == [("smoke_rpn", None)]
    assert figures["compiled"][0]["finite"]
    checks = {check["check"]: check["passed"] for check in figures["checks"]}
    assert checks.keys() >= {"resume smoke_mask_rcnn", "evaluation smoke_faster_rcnn"}
    assert all(checks.values()), figures["checks"]
    assert f"checks: {len(checks)} passed, 0 failed" in done.stdout
