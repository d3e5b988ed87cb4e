"""Proposals of a whole split by a proposal network, detected by all ranks and collected by rank 0."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from kubedet_trainer import dist
from kubedet_trainer.data.proposals import ProposalRecord
from kubedet_trainer.evaluation.evaluate import detect
from kubedet_trainer.models.detector import Detector
from kubedet_trainer.structures import Batch

_BLOCK = 64
"""Images of each rank that are sent to rank 0 together: at most 2.5 MB for every rank with 2000 proposals."""

_Found = tuple[NDArray[np.float32], NDArray[np.float32]]
"""(K, 4) boxes and (K,) scores of one image."""


@torch.inference_mode()
def propose(
    detector: Detector,
    batches: Iterable[Batch],
    *,
    image_ids: NDArray[np.int64],
    most: int,
    device: torch.device,
    should_stop: Callable[[], bool] = lambda: False,
) -> ProposalRecord | None:
    """What `detector` proposes in every image of a split; every rank must call this.

    Args:
        detector: left in the mode it was in.
        batches: this rank's share, batches of one image: those at rank, rank + world size, ...
        image_ids: (N,) of the whole split, in its order.
        most: proposals of an image at most.
        device: where the detector is.
        should_stop: whether to give up; asked before each image, equally often on every rank.

    Returns:
        None when stopped, and on every rank but 0.
    """
    num_images, is_first = len(image_ids), dist.rank() == 0
    # Pages that are never written to take no memory.
    boxes = np.empty((num_images * most if is_first else 0, 4), np.float32)
    scores = np.empty(len(boxes), np.float32)
    offsets = [0]
    was_training = detector.training
    detector.eval()
    block: list[_Found | None] = []
    turns = -(-num_images // dist.world_size())
    try:
        for turn, batch in itertools.zip_longest(range(turns), batches):
            if should_stop():
                return None
            block.append(_detect(detector, batch, device) if batch is not None else None)
            if len(block) < _BLOCK and turn < turns - 1:
                continue
            for found in itertools.chain.from_iterable(zip(*dist.gather(block), strict=True)):
                if found is not None:  # the last turn is not one of every rank
                    part = slice(offsets[-1], offsets[-1] + len(found[1]))
                    boxes[part], scores[part] = found
                    offsets.append(part.stop)
            block = []
    finally:
        detector.train(was_training)
    if not is_first:
        return None
    return ProposalRecord(
        image_ids=image_ids,
        offsets=np.array(offsets, np.int64),
        boxes=boxes[: offsets[-1]],
        scores=scores[: offsets[-1]],
    )


def _detect(detector: Detector, batch: Batch, device: torch.device) -> _Found:
    [table] = detect(detector, batch, device=device)
    return table.boxes, table.scores
