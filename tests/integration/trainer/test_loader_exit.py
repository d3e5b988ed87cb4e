"""Loader workers ignore SIGTERM; the process that owns them must still be able to end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import sys
from pathlib import Path

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
print("leaving")
ENDING
"""


@pytest.mark.parametrize(("ending", "code"), [("", 0), ("sys.exit(65)", 65), ("raise ValueError('x')", 1)])
def test_a_rank_that_leaves_in_the_middle_of_an_epoch_ends(tmp_path: Path, ending: str, code: int) -> None:
    tests = Path(__file__).resolve().parents[2]
    program = _PROGRAM.replace("ENDING", ending)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tests), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "leaving" in done.stdout, done.stderr
    assert done.returncode == code, done.stderr
