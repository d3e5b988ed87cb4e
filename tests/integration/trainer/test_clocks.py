"""A worker on a machine whose clock is set by an hour while it trains."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer_ranks import ITERATIONS, Job

pytestmark = [pytest.mark.torchrun, pytest.mark.timeout(300)]

_SHIFT = """
import time
told = time.time

def shifted():
    with open({file!r}) as ahead:
        return told() + float(ahead.read())

time.time = shifted
"""
"""Python runs it at its start, in every process of the worker. Steady time stays the machine's."""


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """A file that says by how many seconds the wall clock of the worker is ahead."""
    file = tmp_path / "ahead"
    file.write_text("0")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_SHIFT.format(file=str(file)))
    return file


@pytest.fixture
def job(tmp_path: Path, clock: Path) -> Iterator[Job]:
    job = Job(folder=tmp_path / "job", environment={"PYTHONPATH": str(tmp_path / "site")})
    yield job
    job.stop_all()


@pytest.mark.parametrize("seconds", [-3600, 3600])
def test_a_clock_that_is_set_while_a_rank_restarts_counts_for_nothing(
    job: Job, clock: Path, seconds: int
) -> None:
    def progress() -> dict[str, Any]:
        file = job.work / "progress.json"
        found: dict[str, Any] = json.loads(file.read_text())["progress"] if file.exists() else {}
        return found

    launcher = job.launch()
    job.wait_for(lambda: progress().get("iteration", 0) > 10, rank=launcher)
    rank = job.find_rank(0, launcher=launcher)
    clock.write_text(str(seconds))
    os.kill(rank, signal.SIGKILL)
    assert launcher.wait(timeout=240) == 0, job.log()[-3000:]
    found = progress()
    assert found["iteration"] == ITERATIONS
    recovery = found["recovery"]["seconds"]
    assert {"notice", "stop", "start", "step"} <= recovery.keys()
    assert sum(recovery.values()) < 600
    assert sum(found["time"]["seconds"].values()) < 600
    assert found["time"]["iterations"] >= ITERATIONS
    assert found["estimatedRemainingSeconds"] < 600
    message = json.loads((job.folder / "termination").read_text())
    assert (
        message["results"]["secondsPerIteration"] is None or message["results"]["secondsPerIteration"] < 600
    )
