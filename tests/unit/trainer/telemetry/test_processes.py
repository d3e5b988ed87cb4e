"""What the kernel says about a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubedet_trainer.telemetry.processes import read_stat

ODD = "a) T 9 (b"
"""The name of a program is part of the line, and may be anything."""


@pytest.fixture
def program(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    code = f"import pathlib, time; pathlib.Path('/proc/self/comm').write_text({ODD!r}); print(flush=True)\n"
    with subprocess.Popen([sys.executable, "-c", f"{code}time.sleep(60)"], stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        started.stdout.readline()
        yield started
        started.kill()


def test_the_state_is_that_of_the_process_whatever_its_name(program: subprocess.Popen[bytes]) -> None:
    while (found := read_stat(program.pid)) is not None and found.state == "R":
        time.sleep(0.01)
    assert found is not None
    assert found.state == "S"
    os.kill(program.pid, signal.SIGSTOP)
    while (found := read_stat(program.pid)) is not None and found.state != "T":
        time.sleep(0.01)
    assert found is not None
    own = read_stat("self")
    assert own is not None
    assert found.start_ticks >= own.start_ticks
    assert found.cpu_ticks >= 0


def test_a_process_that_is_gone_has_no_stat(program: subprocess.Popen[bytes]) -> None:
    program.kill()
    program.wait()
    assert read_stat(program.pid) is None
