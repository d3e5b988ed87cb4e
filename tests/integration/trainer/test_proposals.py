"""An RPN in real processes leaves its proposals, and a Fast R-CNN learns from them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trainer_ranks import DATASET, Job

SHORT: dict[str, str | None] = {"schedule.epochs": "2", "schedule.decay_epochs": "1"}
NO_BOX_HEAD = dict.fromkeys(("model.box_head.fc_channels", "model.box_head.num_samples"))
NO_RPN_HEAD = dict.fromkeys(
    f"model.rpn_head.{name}" for name in ("num_samples", "nms_pre", "nms_post", "num_proposals")
)
WRITING = {"KUBEDET_RECIPE": "smoke_rpn", "KUBEDET_WRITE_PROPOSALS": "true"}


def _read(folder: Path, split: str) -> dict[str, np.ndarray]:
    with np.load(folder / f"{split}.npz") as record:
        return dict(record)


@pytest.mark.timeout(300)
def test_two_ranks_leave_what_one_proposes_and_a_fast_rcnn_learns_from_it(tmp_path: Path) -> None:
    rpn = Job(
        folder=tmp_path / "rpn",
        overrides={**SHORT, **NO_BOX_HEAD},
        environment={**WRITING, "KUBEDET_PROCS_PER_REPLICA": "2"},
    )
    assert rpn.run(world_size=2) == [0, 0], rpn.log(0)[-3000:] + rpn.log(1)[-3000:]
    row = json.loads((rpn.work / "results.json").read_text())
    assert row["proposalsUri"] == (rpn.checkpoints / "proposals").as_uri()

    kubedet = [sys.executable, "-m", "kubedet_trainer.commands.kubedet", "propose", str(rpn.checkpoints)]
    alone = [*kubedet, "--dataset", DATASET, "--output", "again"]
    subprocess.run(alone, cwd=tmp_path, check=True, capture_output=True)
    for split in ("train", "val"):
        found, wanted = _read(rpn.checkpoints / "proposals", split), _read(tmp_path / "again", split)
        for name in ("image_ids", "offsets"):
            np.testing.assert_array_equal(found[name], wanted[name])
        for name in ("boxes", "scores"):
            np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-3)

    fast = Job(
        folder=tmp_path / "fast",
        overrides={**SHORT, **NO_RPN_HEAD, "data.num_proposals": "16"},
        environment={"KUBEDET_RECIPE": "smoke_fast_rcnn", "KUBEDET_PROPOSALS_URI": row["proposalsUri"]},
    )
    assert fast.run() == [0], fast.log()[-3000:]
    assert "boxAP" in json.loads((fast.work / "results.json").read_text())


def test_only_an_rpn_can_be_asked_for_proposals_and_that_is_known_at_the_start(tmp_path: Path) -> None:
    job = Job(folder=tmp_path, environment={"KUBEDET_WRITE_PROPOSALS": "true"})
    assert job.run() == [65]
    assert job.failure()["message"] == (
        "writeProposals: smoke_faster_rcnn is a faster_rcnn, must be an rpn; remove it"
    )
    assert job.steps() == []
