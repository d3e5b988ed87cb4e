"""Masks of the ground truth, put where the image of a batch has them. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from kubedet_trainer.data import run_lengths
from kubedet_trainer.data.run_lengths import Size

PackedMasks = NDArray[np.uint8]
"""(K, H, ceil(W / 8)), a bit a pixel along the rows as `numpy.packbits` makes them."""


def place_masks(codes: Sequence[bytes], *, original_size: Size, size: Size, flip: bool) -> PackedMasks:
    """Decode masks at the size of the image's file, resize them to `size` as its boxes were, and pack them.

    Nearest neighbours, as the zoo took them (`docs/zoo.md`, 1.2); mirrored left to right if `flip`.
    """
    rows = _nearest(original_size[0], size[0])
    columns = _nearest(original_size[1], size[1])
    if flip:
        columns = columns[::-1]
    packed = np.empty((len(codes), size[0], -(-size[1] // 8)), np.uint8)
    for place, code in enumerate(codes):
        # A code runs down the columns, so whole columns are copied at first; rows only once they are packed,
        # when they are an eighth as long.
        columns_first = run_lengths.decode(code, size=original_size).T[columns]
        wide = np.asarray(cv2.transpose(columns_first), np.uint8)
        np.take(np.packbits(wide, axis=1), rows, axis=0, out=packed[place])
    return packed


def _nearest(old: int, new: int) -> NDArray[np.intp]:
    """(new,) the index among `old` that OpenCV takes for each pixel along a side that it resizes."""
    count = np.arange(old, dtype=np.float32)[None]
    taken = cv2.resize(count, (new, 1), interpolation=cv2.INTER_NEAREST)
    return np.asarray(taken[0], np.intp)
