"""Loader workers ignore SIGTERM and are no children of their rank; yet each ends with the other."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kubedet_trainer.contract import ExitCode

_PROGRAM = """
import multiprocessing
import os
import signal
import sys
from pathlib import Path

from kubedet_trainer.__main__ import describe
from kubedet_trainer.worker import fork_server

START
sys.path.insert(0, sys.argv[1])
from dataset_builders import ALONE, make_split
from kubedet_trainer.data import loader
from kubedet_trainer.data.transforms import Pipeline

split = make_split(Path(sys.argv[2]), sizes=[(64, 48)] * 4)
batches = loader.train_loader(
    split,
    plan=loader.sampling_plan(split, images_per_process=2, global_batch=2, seed=0),
    pipeline=Pipeline(scale=(96, 64)),
    world=ALONE,
    end_iteration=1000,
    num_workers=2
)
iterator = iter(batches)
next(iterator)
workers = [worker.pid for worker in multiprocessing.active_children()]
print("leaving", *workers, flush=True)
ENDING
"""
_SERVERS = ["", "fork_server.start()"]
_KILLS_A_WORKER = """
os.kill(workers[0], signal.SIGKILL)
try:
    list(iterator)
except RuntimeError as error:
    sys.exit(int(describe(error).exitCode))
"""


def _run(tmp_path: Path, *, start: str, ending: str) -> subprocess.CompletedProcess[str]:
    tests = Path(__file__).resolve().parents[2]
    program = _PROGRAM.replace("ENDING", ending).replace("START", start)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tests), str(tmp_path)],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "leaving" in done.stdout, done.stderr
    return done


@pytest.mark.parametrize("start", _SERVERS)
@pytest.mark.parametrize(("ending", "code"), [("", 0), ("sys.exit(65)", 65), ("raise ValueError('x')", 1)])
def test_a_rank_that_leaves_in_the_middle_of_an_epoch_ends(
    tmp_path: Path, start: str, ending: str, code: int
) -> None:
    done = _run(tmp_path, start=start, ending=ending)
    assert done.returncode == code, done.stderr


@pytest.mark.parametrize("start", _SERVERS)
def test_workers_end_with_a_rank_that_is_killed(tmp_path: Path, start: str) -> None:
    done = _run(tmp_path, start=start, ending="os.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode == -9
    workers = done.stdout.split()[1:]
    assert len(workers) == 2
    deadline = time.monotonic() + 60
    while any(_is_running(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker outlives its rank"
        time.sleep(0.1)


def _is_running(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"  # it has ended, and nobody has asked yet


@pytest.mark.parametrize("start", _SERVERS)
def test_a_killed_worker_ends_the_rank_as_killed(tmp_path: Path, start: str) -> None:
    done = _run(tmp_path, start=start, ending=_KILLS_A_WORKER)
    assert done.returncode == ExitCode.KILLED, done.stderr
