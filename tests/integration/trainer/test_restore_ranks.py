"""A checkpoint that is brought to the ranks of two workers, as real processes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import torch

from kubedet_trainer import dist
from kubedet_trainer.settings import CheckpointSettings, DatasetSettings, RunSettings
from kubedet_trainer.training import restore
from kubedet_trainer.training.checkpoint import Checkpointer, Origin
from kubedet_trainer.training.local_copy import copy_file
from kubedet_trainer.training.manifest import Located
from kubedet_trainer.training.snapshot import Snapshot
from rank_processes import run_ranks

ORIGIN = Origin(recipe={"name": "smoke", "model": {"depth": 18}}, classes=["cell"])
SLOW_SECONDS = 2.5


def settings_of(folder: Path, rank: int) -> RunSettings:
    return RunSettings(
        recipe="smoke_faster_rcnn",
        dataset=DatasetSettings(uri="synthetic://shapes"),
        checkpoint=CheckpointSettings(uri=(folder / "store").as_uri()),
        work_directory=folder / f"work-{rank}",
    )


def checkpointer_of(settings: RunSettings) -> Checkpointer:
    copy = copy_file(settings.work_directory)
    return Checkpointer(settings.checkpoint, origin=ORIGIN, copy=copy)


def restore_on(rank: int, port: int, folder: Path) -> None:
    """The only rank of a worker restores; the first one takes long to find out what there is."""
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    world = dist.initialise(torch.device("cpu"))
    settings = settings_of(folder, rank)
    checkpointer = checkpointer_of(settings)
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1

    def fetch(file: Path) -> Located | None:
        time.sleep(SLOW_SECONDS)
        return checkpointer.fetch(target=file)

    restored = restore.read_on_every_rank(
        fetch, checkpointer=checkpointer, settings=settings, world=world, waiting=beat
    )
    assert restored is not None
    report = {"iteration": restored.state["iteration"], "beats": beats}
    (folder / f"rank-{rank}.json").write_text(json.dumps(report))
    dist.shut_down()


def test_workers_agree_on_what_all_can_have_and_show_that_they_live_while_they_wait(tmp_path: Path) -> None:
    saving = checkpointer_of(settings_of(tmp_path, 0))
    for iteration in (10, 20):
        state = {"iteration": iteration, "model": {"weight": torch.full((100,), float(iteration))}}
        saving.save(Snapshot(iteration=iteration, epoch=0, state=state, stall_seconds=0.0))
    # The worker of rank 0 has a copy of it; the other one has none, and cannot get it.
    (tmp_path / "store/step-00000020/state.pt").write_bytes(b"damaged")
    run_ranks(restore_on, tmp_path)
    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2))
    assert (first["iteration"], second["iteration"]) == (10, 10)
    assert second["beats"] >= 2
