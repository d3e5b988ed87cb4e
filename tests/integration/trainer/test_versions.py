"""A training that the first release has begun, and real ranks of this version end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import first_release
from trainer_ranks import ITERATIONS, Job

pytestmark = pytest.mark.timeout(300)


def test_a_training_of_the_first_release_goes_on_to_its_end_and_reports_its_row(tmp_path: Path) -> None:
    job = Job(folder=tmp_path)
    recorded = first_release.unpack_checkpoints(tmp_path / "recorded")
    shutil.copytree(recorded, job.checkpoints)
    begun = max(job.steps())
    history = torch.load(job.checkpoints / f"step-{begun:08d}" / "state.pt", weights_only=True)["history"]
    assert 0 < begun < ITERATIONS
    assert job.run() == [0], job.log()[-3000:]
    assert "resumed from" in job.log()
    assert max(job.steps()) == ITERATIONS
    ended = job.state(ITERATIONS)["history"]
    assert ended["training"][: len(history["training"])] == history["training"]
    assert ended["evaluations"][: len(history["evaluations"])] == history["evaluations"]
    row = json.loads((job.work / "results.json").read_text())
    assert row["iterations"] == ITERATIONS
    report = json.loads((job.checkpoints / "results.json").read_text())
    assert [start["iteration"] for start in report["run"]["starts"]] == [begun]
