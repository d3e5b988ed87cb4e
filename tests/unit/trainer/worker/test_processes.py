"""Children, orphans and the kernel's memory counter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kubedet_trainer.worker import processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc and prctl are Linux's")

ORPHANAGE = """
import os, subprocess, sys, time
from kubedet_trainer.worker import processes
processes.adopt_orphans()
before = processes.children()
parent = processes.start_module("{module}", environment=os.environ)
{act}
"""


def run_orphanage(tmp_path: Path, act: str, child: str) -> str:
    (tmp_path / "brief.py").write_text(child)
    code = ORPHANAGE.format(module="brief", act=act)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def test_orphans_of_a_dead_child_are_killed(tmp_path: Path) -> None:
    act = """
parent.wait()
(orphan,) = processes.children() - before
processes.kill_orphans(except_for=before)
print("alive" if os.path.exists(f"/proc/{orphan}") else "gone", processes.children() - before)
"""
    child = (
        'import subprocess; subprocess.Popen(["sleep", "60"], start_new_session=True, stdout=-3, stderr=-3)'
    )
    assert run_orphanage(tmp_path, act, child) == "gone set()\n"


def test_what_a_child_has_started_is_killed_after_it(tmp_path: Path) -> None:
    act = """
while not (started := open(f"/proc/{parent.pid}/task/{parent.pid}/children").read().split()):
    time.sleep(0.02)
processes.kill_orphans(except_for=before)
print("alive" if os.path.exists(f"/proc/{started[0]}") else "gone", processes.children() - before)
parent.wait()
"""
    child = """
import subprocess, time
subprocess.Popen(["sleep", "60"], start_new_session=True, stdout=-3, stderr=-3)
time.sleep(60)
"""
    assert run_orphanage(tmp_path, act, child) == "gone set()\n"


def test_ended_orphans_are_reaped_and_the_child_keeps_its_exit_code(tmp_path: Path) -> None:
    act = """
while parent.poll() is None:
    processes.reap_orphans(except_for=parent)
    time.sleep(0.05)
print(parent.returncode, processes.children() - before)
"""
    child = """
import subprocess, sys, time
subprocess.run([sys.executable, "-c", "import subprocess; subprocess.Popen(['true'])"])
time.sleep(0.5)
sys.exit(7)
"""
    assert run_orphanage(tmp_path, act, child) == "7 set()\n"


@pytest.mark.parametrize(
    ("membership", "file", "text", "expected"),
    [
        ("0::/pod/c1\n", "pod/c1/memory.events", "low 0\noom 4\noom_kill 3\n", 3),
        ("0::/\n", "memory.events", "oom 0\noom_kill 0\n", 0),
        (
            "5:cpu,memory:/c1\n",
            "memory/c1/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
            2,
        ),
        ("5:memory:/host/c1\n", "memory/memory.oom_control", "oom_kill 1\n", 1),
        ("0::/elsewhere\n", "unrelated", "", 0),
    ],
)
def test_memory_kills_are_read_from_either_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, membership: str, file: str, text: str, expected: int
) -> None:
    root = tmp_path / "cgroup"
    (root / file).parent.mkdir(parents=True)
    (root / file).write_text(text)
    (tmp_path / "membership").write_text(membership)
    files = processes._memory_event_files(tmp_path / "membership", root)
    monkeypatch.setattr(processes, "_memory_event_files", lambda *_: files)
    assert processes.count_memory_kills() == expected


def test_counting_memory_kills_works_here() -> None:
    assert processes.count_memory_kills() >= 0
