"""Ranks that train together find the one that all of them wait for, by what it does before they exchange."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer_ranks import Job

pytestmark = [pytest.mark.torchrun, pytest.mark.timeout(600)]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    """Many steps of three ranks, of which the last one is slow while there is a mark."""
    mark = tmp_path / "slow"
    mark.touch()
    job = Job(
        folder=tmp_path / "job",
        overrides={"global_batch": "6", "schedule.epochs": "100", "data.num_workers": "0"},
        environment={
            "KUBEDET_RECIPE": "slow_detector:smoke_sleeper",
            "KUBEDET_DATASET_URI": "synthetic://shapes?images=48&val_images=6&size=96x64",
            "KUBEDET_CHECKPOINT_INTERVAL_ITERATIONS": "10000",
            "KUBEDET_EVALUATE_EVERY_EPOCHS": "0",
            "PYTHONPATH": str(Path(__file__).parent),
            "SLOW_MARK": str(mark),
        },
    )
    yield job
    job.stop_all()


def _record(job: Job) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((job.work / "progress.json").read_text())
    except FileNotFoundError:
        return {}
    return record


def test_a_slow_rank_is_named_while_it_is_slow(job: Job, tmp_path: Path) -> None:
    first, *_ = job.start(world_size=3)
    job.wait_for(lambda: "straggler" in _record(job), rank=first, seconds=400)
    record = _record(job)
    assert record["progress"]["iteration"] >= 100
    assert (record["straggler"]["rank"], record["straggler"]["replica"]) == (2, 0)
    assert record["straggler"]["ratio"] >= 1.5
    assert "rank 2 in worker 0 is a straggler" in job.log()

    (tmp_path / "slow").unlink()
    job.wait_for(lambda: "straggler" not in _record(job), rank=first)
    assert _record(job)["progress"]["stage"] != "Done"
    assert "rank 2 is no straggler any more" in job.log()
