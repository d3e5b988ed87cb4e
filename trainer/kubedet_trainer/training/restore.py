"""Brings a saved state to every rank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kubedet_trainer import dist
from kubedet_trainer.settings import RunSettings
from kubedet_trainer.training.checkpoint import Checkpointer
from kubedet_trainer.training.manifest import Located

SCRATCH = "checkpoint"
"""In the work directory: what is being restored."""


@dataclass(frozen=True, kw_only=True)
class Restored:
    """A checkpoint and what it holds."""

    located: Located
    state: dict[str, Any]


def read_on_every_rank(
    fetch: Callable[[Path], Located | None],
    *,
    checkpointer: Checkpointer,
    settings: RunSettings,
    world: dist.World,
) -> Restored | None:
    """The state of the checkpoint that `fetch` writes to a file on rank 0; None where it finds none.

    The first rank of every other worker downloads the same one for its worker.
    """
    file = settings.work_directory / SCRATCH / "restored.pt"
    located = dist.broadcast(fetch(file) if world.rank == 0 else None)
    if located is None:
        return None
    if world.local_rank == 0 and world.rank != 0:
        checkpointer.download(located, target=file)
    dist.barrier()
    state = torch.load(file, map_location="cpu", weights_only=True)
    dist.barrier()
    if world.local_rank == 0:
        file.unlink()
    return Restored(located=located, state=state)
