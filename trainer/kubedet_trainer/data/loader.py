"""Streams of batches, made by worker processes: for training from any iteration on, and for validation.

Workers are forked by multiprocessing's fork server, never by the rank, which has threads and perhaps a GPU. A
rank in a pod has forked that server from itself at its start (`worker.fork_server`); elsewhere the first
loader starts one, which takes an import of torch. Workers map the arrays of annotations that all share, and
end with their rank.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader

from kubedet_trainer.data import forked
from kubedet_trainer.data.batches import Batches, TrainingBatches, ValidationBatches
from kubedet_trainer.data.sampler import ChunkSampler, Plan
from kubedet_trainer.data.splits import Split
from kubedet_trainer.data.transforms import Pipeline
from kubedet_trainer.dist import World
from kubedet_trainer.errors import TrainerError
from kubedet_trainer.structures import Batch


def sampling_plan(split: Split, *, images_per_process: int, global_batch: int, seed: int) -> Plan:
    """How the images of a training split are batched."""
    groups = split.annotations.aspect_groups()[split.rows]
    return Plan(
        aspect_groups=groups,
        images_per_process=images_per_process,
        global_batch=global_batch,
        chances=split.chances,
        seed=seed,
    )


class Loader:
    """Iterates over batches; an error in a worker arrives here as it was raised there.

    Only one iteration at a time. Its workers end with it, or with `close`.
    """

    def __init__(self, batches: DataLoader[Batch]) -> None:
        self._batches = batches
        self._iterator: Iterator[Any] | None = None
        self._workers: set[BaseProcess] = set()
        self._turn: object = None

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        self.close()
        # Python ends forgotten child processes by SIGTERM, which these ignore, and then waits for them for
        # ever. What is registered here runs before that.
        atexit.register(self.close)
        others = set(multiprocessing.active_children())
        try:
            self._iterator = iter(self._batches)
        finally:
            self._workers = set(multiprocessing.active_children()) - others
        turn = self._turn = object()
        try:
            while self._turn is turn and self._iterator is not None:
                if (item := self._next(self._iterator)) is None:
                    return
                if isinstance(item, TrainerError):
                    raise item
                yield item
        finally:
            if self._turn is turn:
                self.close()

    def close(self) -> None:
        """End the workers of an iteration that was not taken to its end."""
        # torch ends the workers, by a message, once nothing refers to the iterator. Its own errors do.
        self._iterator = None
        for worker in self._workers:
            worker.kill()
        self._workers = set()
        atexit.unregister(self.close)

    def _next(self, batches: Iterator[Any]) -> Any:
        try:
            return next(batches, None)
        except (ConnectionError, EOFError) as error:
            # It was killed before it had handed over all of a batch that it had announced.
            raise RuntimeError("DataLoader worker exited unexpectedly") from error


def train_loader(
    split: Split,
    *,
    plan: Plan,
    pipeline: Pipeline,
    world: World,
    images_per_pass: int | None = None,
    start_iteration: int = 0,
    end_iteration: int,
    num_workers: int,
) -> Loader:
    """This rank's images of the global iterations [start, end), `images_per_pass` a batch or else a chunk.

    One iterator serves all epochs, so the workers stay and read ahead across an epoch's end. An image without
    ground truth is replaced by another of its aspect group.
    """
    sampler = ChunkSampler(
        plan,
        rank=world.rank,
        world_size=world.size,
        images_per_pass=images_per_pass,
        start_iteration=start_iteration,
        end_iteration=end_iteration,
    )
    return _loader(
        TrainingBatches(split, pipeline, plan), batch_sampler=sampler, world=world, num_workers=num_workers
    )


def val_loader(
    split: Split,
    *,
    pipeline: Pipeline,
    world: World,
    num_workers: int,
    images_per_batch: int = 1,
    with_masks: bool = False,
) -> Loader:
    """The images at rank, rank + world size, ... of the split, in its order.

    Their targets have masks only `with_masks`, since evaluation compares with the split's own.
    """
    share = list(range(world.rank, len(split), world.size))
    starts = range(0, len(share), images_per_batch)
    return _loader(
        ValidationBatches(split, pipeline, with_masks=with_masks),
        batch_sampler=[share[start : start + images_per_batch] for start in starts],
        world=world,
        num_workers=num_workers,
    )


def _loader(
    dataset: Batches,
    *,
    batch_sampler: ChunkSampler | list[list[int]],
    world: World,
    num_workers: int,
) -> Loader:
    # One thread per worker: OpenCV's own pool would compete with the other workers for the same cores.
    cv2.setNumThreads(0)
    # torch suggests one process for each core; a recipe may have more, which only costs time.
    warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
    batches: DataLoader[Batch] = DataLoader(
        dataset,
        batch_sampler=batch_sampler,
        num_workers=num_workers,
        multiprocessing_context=forked.context(__name__) if num_workers else None,
        pin_memory=world.device.type == "cuda",
        collate_fn=_as_is,
        worker_init_fn=_start_worker,
    )
    return Loader(batches=batches)


def _as_is(batch: Any) -> Any:
    return batch


def _start_worker(_: int) -> None:
    # A stop is the rank's affair: it still needs batches until its state is saved, and ends its workers then.
    for number in forked.STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    forked.hear_stops()
    threading.Thread(target=_end_with_rank, daemon=True).start()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _end_with_rank() -> None:
    # torch's workers look whether their parent has changed, which is the fork server, not the rank.
    rank = multiprocessing.parent_process()
    assert rank is not None
    connection.wait([rank.sentinel])
    os._exit(0)
