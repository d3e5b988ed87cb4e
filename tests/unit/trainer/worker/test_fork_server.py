"""The server that loader workers are forked from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from kubedet_trainer.worker import fork_server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing says whether it is safe")

TESTS = Path(__file__).resolve().parents[3]
PROGRAM = """
import json, multiprocessing, os, sys
from pathlib import Path
from kubedet_trainer.data import loader
from kubedet_trainer.data.transforms import Pipeline
from kubedet_trainer.worker import fork_server

BEFORE
fork_server.start()
sys.path.insert(0, sys.argv[1])
from dataset_builders import ALONE, make_split

split = make_split(Path(sys.argv[2]), sizes=[(64, 48)] * 4)
plan = loader.sampling_plan(split, images_per_process=2, global_batch=2, seed=0)
batches = loader.train_loader(
    split, plan=plan, pipeline=Pipeline(scale=(96, 64)), world=ALONE, end_iteration=9, num_workers=2
)
iterator = iter(batches)
next(iterator)

def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])

workers = multiprocessing.active_children()
servers = {parent(worker.pid) for worker in workers}
command = Path("/proc/self/cmdline").read_bytes()
print(json.dumps({
    "batches": 1 + len(list(iterator)),
    "workers": len(workers),
    "servers": len(servers),
    "parent is this process": [parent(server) == os.getpid() for server in servers],
    "is a fork": [Path(f"/proc/{server}/cmdline").read_bytes() == command for server in servers],
    "threads": [len(os.listdir(f"/proc/{server}/task")) for server in servers],
}))
"""


def run(folder: Path, *, before: str = "") -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("BEFORE", before), str(TESTS), str(folder)],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_loader_workers_are_forks_of_a_fork_of_the_rank(tmp_path: Path) -> None:
    assert run(tmp_path) == {
        "batches": 9,
        "workers": 2,
        "servers": 1,
        "parent is this process": [True],
        "is a fork": [True],
        "threads": [1],
    }


def test_a_process_with_threads_is_not_forked(tmp_path: Path) -> None:
    found = run(
        tmp_path,
        before="import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
    )
    assert found["batches"] == 9
    assert found["is a fork"] == [False]


def test_a_server_is_not_forked_where_that_is_not_safe(caplog: pytest.LogCaptureFixture) -> None:
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    with caplog.at_level("INFO"):
        fork_server.start()
    ended.set()
    thread.join()
    assert "imports torch again: this process has" in caplog.text
