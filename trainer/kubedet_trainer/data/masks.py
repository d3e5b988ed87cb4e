"""Masks of the ground truth: read from the annotation file, and put where the image of a batch has them.

Imports no torch.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kubedet_trainer.data import run_lengths
from kubedet_trainer.data.json_records import JsonRecord, read_records
from kubedet_trainer.data.run_lengths import Size
from kubedet_trainer.data.table import AnnotationTable, Problem

PackedMasks = NDArray[np.uint8]
"""(K, H, ceil(W / 8)), a bit a pixel along the rows as `numpy.packbits` makes them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskColumn:
    """The masks of a file's M annotations, in its order."""

    offsets: NDArray[np.int64]
    """(M + 1,): the code of annotation m is ``codes[offsets[m]:offsets[m + 1]]``, empty where it has none."""
    codes: NDArray[np.uint8]
    """Run-length codes, one after the other."""


def read_masks(
    table: AnnotationTable, *, needed: NDArray[np.bool_] | None = None
) -> tuple[MaskColumn, list[Problem]]:
    """Read the segmentations of the file that `table` came from, and all that is wrong with them.

    The file is read a second time, so that those who need no masks pay nothing for them, and polygons meet
    the size of their image wherever in the file it is.

    Args:
        table: rows of annotations are positions in the file only as long as it has no malformed record.
        needed: (M,) annotations that must have a mask; the others are left out. None only looks at what
            there is: nothing is missed, and nothing kept.
    """
    sizes = dict(zip(table.image_ids.tolist(), map(tuple, table.image_sizes.tolist()), strict=True))
    codes = bytearray()
    offsets = array("q", [0])
    found: list[Problem] = []
    for record in read_records(table.file):
        if record.section != "annotations":
            continue
        if needed is None or needed[record.position]:
            try:
                codes += _read_mask(record.value, sizes=sizes, is_needed=needed is not None)
            except ValueError as error:
                found.append(_problem(table.file, record, rule="malformed-segmentation", reason=str(error)))
            except LookupError as error:
                found.append(_problem(table.file, record, rule="missing-segmentation", reason=str(error)))
        offsets.append(len(codes))
    return MaskColumn(offsets=np.array(offsets, np.int64), codes=np.frombuffer(codes, np.uint8)), found


def _read_mask(value: Any, *, sizes: Mapping[int, Size], is_needed: bool) -> bytes:
    """The code of an annotation, empty where it has none and needs none.

    Raises:
        ValueError: its segmentation breaks a rule.
        LookupError: it has none but needs one.
    """
    outline = value.get("segmentation") if isinstance(value, Mapping) else None
    if not outline:
        if is_needed:
            raise LookupError("is absent, must be there for a detector that learns masks")
        return b""
    # An annotation without its image is a problem of its own.
    size = sizes.get(image_id) if isinstance(image_id := value.get("image_id"), int) else None
    if size is None or min(size) < 1:
        return b""
    code = run_lengths.compress(outline, size=size)
    return code if is_needed else b""


def _problem(file: Path, record: JsonRecord, *, rule: str, reason: str) -> Problem:
    number = record.value.get("id", record.position)
    image = record.value.get("image_id")
    message = f"annotation {number} of image {image}: segmentation: {reason}"
    return Problem(file=str(file), id=number, rule=rule, message=message)


def place_masks(codes: Sequence[bytes], *, original_size: Size, size: Size, flip: bool) -> PackedMasks:
    """Decode masks at the size of the image's file, resize them to `size` as its boxes were, and pack them.

    Nearest neighbours, as the zoo took them; mirrored left to right if `flip`.
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
