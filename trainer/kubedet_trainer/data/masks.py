"""Masks of the ground truth, put where the images of a batch have them, without drawing any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from kubedet_trainer.data import run_lengths
from kubedet_trainer.data.run_lengths import Size
from kubedet_trainer.structures import Masks

_NEVER = np.iinfo(np.int64).max
_FEWEST_ENDS = 1024


@dataclass(frozen=True, kw_only=True)
class ImageMasks:
    """The masks of one image's objects, and how the image was changed."""

    codes: Sequence[bytes]
    """See `run_lengths`."""
    original_size: Size
    """Height and width in the file, to which the codes belong."""
    size: Size
    """After resizing."""
    flip: bool
    """Whether it was then mirrored left to right."""


def place_masks(images: Sequence[ImageMasks], *, slots: int, size: Size) -> Masks:
    """The masks of all images, in the first ones of `slots`; the batch has the (height, width) `size`.

    Nearest neighbours, as the zoo took them (`docs/zoo.md`, 1.2).
    """
    rows = np.empty((len(images), size[0]), np.int64)
    columns = np.empty((len(images), size[1]), np.int64)
    starts = np.empty((len(images), slots), np.int64)
    found = run_lengths.ends([code for own in images for code in own.codes])
    ends: list[NDArray[np.int64]] = []
    start = 0
    for index, own in enumerate(images):
        height, width = own.original_size
        behind = height * width
        shown = _nearest(width, own.size[1]) * height
        rows[index, : own.size[0]] = _nearest(height, own.size[0])
        columns[index, : own.size[1]] = shown[::-1] if own.flip else shown
        rows[index, own.size[0] :] = columns[index, own.size[1] :] = behind
        for slot in range(len(own.codes)):
            starts[index, slot] = start
            ends.append(start + next(found))
            start += 2 * behind + 1  # a row and a column may both be behind the object
    for index, own in enumerate(images):
        starts[index, len(own.codes) :] = start
    run_ends = np.concatenate(ends) if ends else np.empty(0, np.int64)
    padded = np.full(max(_FEWEST_ENDS, 1 << max(len(run_ends) - 1, 0).bit_length()), _NEVER, np.int64)
    padded[: len(run_ends)] = run_ends
    return Masks(
        run_ends=torch.from_numpy(padded),
        starts=torch.from_numpy(starts),
        rows=torch.from_numpy(rows),
        columns=torch.from_numpy(columns),
    )


def _nearest(old: int, new: int) -> NDArray[np.int64]:
    """(new,) the index among `old` that OpenCV takes for each pixel along a side that it resizes."""
    count = np.arange(old, dtype=np.float32)[None]
    taken = cv2.resize(count, (new, 1), interpolation=cv2.INTER_NEAREST)
    return np.asarray(taken[0], np.int64)
