"""Brings a saved state to every rank."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kubedet_trainer import dist
from kubedet_trainer.errors import MissingInput, PeerFailed
from kubedet_trainer.settings import RunSettings
from kubedet_trainer.training.checkpoint import Checkpointer
from kubedet_trainer.training.local_copy import copy_file
from kubedet_trainer.training.manifest import Located

_log = logging.getLogger(__name__)


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
    waiting: Callable[[], None],
) -> Restored | None:
    """The state of the checkpoint that `fetch` has in a file on rank 0; None where it finds none.

    The first rank of every other worker has the same one in the file of its worker. The file stays: it saves
    the next start the download. Every rank must call this; `waiting` is called about every second while it
    waits for others.

    Raises:
        MissingInput: this worker cannot have what rank 0 has just downloaded.
        PeerFailed: another worker cannot.
    """
    file = copy_file(settings.work_directory)
    downloads_here = world.local_rank == 0 and world.rank != 0
    failure: MissingInput | None = None
    for is_last_try in (False, True):
        located = dist.broadcast(fetch(file) if world.rank == 0 else None, waiting=waiting)
        if located is None:
            return None
        if downloads_here:
            failure = _download(checkpointer, located, file)
        dist.barrier(waiting=waiting)
        [has_failed] = dist.maximum([failure is not None])
        if not has_failed:
            state = torch.load(file, map_location="cpu", weights_only=True)
            return Restored(located=located, state=state)
        if is_last_try:
            raise failure or PeerFailed("another worker cannot have the checkpoint that rank 0 has")
        if world.rank == 0:
            # Its own copy may be better than what the store has, which is verified next.
            _log.warning("%s: another worker cannot have it; looking for one that all can have", located.uri)
            file.unlink(missing_ok=True)
    raise AssertionError("unreachable")


def _download(checkpointer: Checkpointer, located: Located, file: Path) -> MissingInput | None:
    try:
        checkpointer.download(located, target=file)
    except MissingInput as error:
        return error
    return None
