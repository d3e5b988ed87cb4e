"""Masks of objects as run-length codes, COCO's way: from any form that a file gives them in, from what a mask
head finds, and back to bitmaps.

A code is the compressed counts of pycocotools: runs of 0, 1, 0, ... down the columns of an image of a known
size. It takes some hundred bytes where a bitmap takes a third of a million. Imports no torch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

Bitmap = NDArray[np.uint8]
"""(H, W) of 0 and 1."""

Size = tuple[int, int]
"""Height and width in pixels."""

_LEAST_NUMBERS = 6
"""Of a polygon: x and y of three corners."""
_THRESHOLD = 0.5

# Compressed counts are numbers in groups of five bits, the lowest first, each a printable character.
_FIRST_CHARACTER = 48
_MORE, _SIGN, _BITS = 0x20, 0x10, 5


def compress(segmentation: Any, *, size: Size) -> bytes:
    """The code of a ``segmentation`` as COCO files have it: polygons, or counts as a list or compressed.

    Polygons of fewer than three corners, which have no area, are ignored if there are others.

    Raises:
        ValueError: it is none of these, or does not fit an image of this size; the message says what was
            found and what must hold.
    """
    if isinstance(sound := _validate(segmentation, size=size), list):
        codes = coco_mask.frPyObjects(sound, *size)
        return cast("bytes", (codes[0] if len(codes) == 1 else coco_mask.merge(codes))["counts"])
    return cast("bytes", coco_mask.frPyObjects({"counts": sound, "size": list(size)}, *size)["counts"])


def check(segmentation: Any, *, size: Size) -> None:
    """Raise what `compress` would; takes a tenth of its time for polygons."""
    _validate(segmentation, size=size)


def _validate(segmentation: Any, *, size: Size) -> list[Any] | NDArray[np.int64]:
    """The polygons that enclose anything, or the run lengths."""
    try:
        if isinstance(segmentation, Mapping):
            return _read_counts(segmentation, size=size)
        if not isinstance(segmentation, list) or not segmentation:
            raise ValueError(f"got {_shown(segmentation)}, must be polygons or run lengths")
        polygons = [polygon for polygon in segmentation if _check_polygon(polygon, size=size)]
    except OverflowError as error:
        raise ValueError(f"has a number that is too large ({error})") from error
    if not polygons:
        raise ValueError(
            f"got {_shown(segmentation)}, must have a polygon of at least {_LEAST_NUMBERS} numbers"
        )
    return polygons


def area(segmentation: Any) -> float:
    """Pixels inside a ``segmentation`` as COCO files have it, about; 0 where it is none.

    That of polygons is the sum of their own (the shoelace formula), so that the image's size is not needed.
    """
    try:
        if isinstance(segmentation, Mapping):
            counts = segmentation["counts"]
            runs = _decompress(counts.encode("ascii")) if isinstance(counts, str) else np.array(counts)
            return 0.0 if runs is None else _finite(float(sum(runs[1::2].tolist())))
        return sum(map(_polygon_area, segmentation))
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError):
        return 0.0


def _polygon_area(polygon: Any) -> float:
    if len(polygon) < _LEAST_NUMBERS:
        return 0.0
    x, y = np.array(polygon, np.float64).reshape(-1, 2).T
    with np.errstate(invalid="ignore", over="ignore"):  # the file may hold any number
        return _finite(float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2))


def _finite(area: float) -> float:
    return area if math.isfinite(area) else 0.0


def decode(counts: bytes, *, size: Size) -> Bitmap:
    """The bitmap of a code, column by column in memory."""
    return cast("Bitmap", coco_mask.decode(_rle(counts, size)))


def ends(codes: Sequence[bytes]) -> Iterator[NDArray[np.int64]]:
    """Where the runs of each code end, as numbers of pixels down the columns; an even number of ends.

    A pixel belongs to the object if an odd number of runs end before or at it. The end of zeros behind the
    object is left out. The codes must be sound, as those of `compress` are.
    """
    if not codes:
        return
    numbers, starts = _read_numbers(_digits(b"".join(codes)))
    bounds = np.searchsorted(starts, np.cumsum([len(code) for code in codes])).tolist()
    for begin, end in itertools.pairwise([0, *bounds]):
        runs = _undo_differences(numbers[begin:end])
        yield np.cumsum(runs[: len(runs) // 2 * 2])


def encode(bitmap: NDArray[np.bool_]) -> bytes:
    """The code of a bitmap of an image's whole (H, W)."""
    return _encode_part(bitmap, left=0, top=0, size=(bitmap.shape[0], bitmap.shape[1]))


def of_box(box: Sequence[float], *, size: Size) -> bytes:
    """The code of a box (x, y, width, height) in an image of this size."""
    x, y, width, height = box
    corners = [x, y, x, y + height, x + width, y + height, x + width, y]
    return cast("bytes", coco_mask.frPyObjects([corners], *size)[0]["counts"])


def areas(counts: Iterable[bytes]) -> NDArray[np.int64]:
    """(K,) pixels of each code."""
    anywhere = (1, 1)  # an area does not depend on the size of the image
    # One by one: from 256 on pycocotools 2.0.11 fails, by putting their number into a byte.
    return np.array([coco_mask.area(_rle(code, anywhere)) for code in counts], np.int64)


def paste(probabilities: NDArray[np.float32], *, boxes: NDArray[np.float32], size: Size) -> Iterator[bytes]:
    """The codes of what a mask head found, one object after the other (`docs/zoo.md`, 5.5).

    The cells of each object are stretched bilinearly over its box, whose corners are cut to whole pixels; a
    pixel belongs to it where the probability is above one half.

    Args:
        probabilities: (K, M, M) of each cell.
        boxes: (K, 4) xyxy with inclusive corners, in pixels of the original image; what lies outside of it
            is left out.
        size: of the original image.
    """
    for cells, (x1, y1, x2, y2) in zip(probabilities, boxes.astype(np.int64).tolist(), strict=True):
        stretched = cv2.resize(cells, (max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)))
        inside = stretched[max(-y1, 0) : max(size[0] - y1, 0), max(-x1, 0) : max(size[1] - x1, 0)]
        yield _encode_part(inside > _THRESHOLD, left=max(x1, 0), top=max(y1, 0), size=size)


def _encode_part(part: NDArray[np.bool_], *, left: int, top: int, size: Size) -> bytes:
    """The code of a bitmap that is zero outside `part`: only the columns of the part are looked at."""
    height, width = part.shape
    # One more column holds the end of an object that reaches the lower right corner.
    columns = np.zeros((width + 1, size[0]), np.bool_)
    columns[:width, top : top + height] = part.T
    pixels = columns.ravel()
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    if pixels[0]:
        changes = np.concatenate(([0], changes))
    edges = np.concatenate((changes + left * size[0], [size[0] * size[1]]))
    runs = np.diff(edges, prepend=0)
    # A run of zeros must have begun the code; it may be empty, a last one may not.
    runs = runs[:-1] if runs[-1] == 0 else runs
    return cast("bytes", coco_mask.frPyObjects({"counts": runs, "size": list(size)}, *size)["counts"])


def _rle(counts: bytes, size: Size) -> dict[str, Any]:
    return {"size": list(size), "counts": counts}


def _check_polygon(polygon: Any, *, size: Size) -> bool:
    """Whether the polygon encloses anything.

    Raises:
        ValueError: it is not a list of x, y, x, y, ... near the image.
    """
    numbers = polygon if isinstance(polygon, list) else [None]
    if len(numbers) % 2 or not all(type(number) in (int, float) for number in numbers):
        raise ValueError(f"got the polygon {_shown(polygon)}, must be a list of numbers x, y, x, y, ...")
    # pycocotools walks along every pixel of an outline, and its whole numbers overflow far away.
    height, width = size
    for along, length in ((numbers[::2], width), (numbers[1::2], height)):
        near = (
            math.isfinite(sum(along))
            and -length <= min(along, default=0) <= max(along, default=0) <= 2 * length
        )
        if not near:
            raise ValueError(
                f"got the polygon {_shown(polygon)}, must lie within the {width}x{height} pixels"
            )
    return len(numbers) >= _LEAST_NUMBERS


def _read_counts(code: Mapping[str, Any], *, size: Size) -> NDArray[np.int64]:
    if code.get("size") != list(size):
        raise ValueError(f"got run lengths of size {_shown(code.get('size'))}, must be {list(size)}")
    counts = code.get("counts")
    if isinstance(counts, str):
        compressed = counts.encode("ascii", errors="replace")
        runs = _decompress(compressed)
    elif isinstance(counts, list) and all(type(run) is int for run in counts):
        runs = np.array(counts, np.int64)
    else:
        raise ValueError(f"got counts {_shown(counts)}, must be whole numbers or a compressed string")
    pixels = size[0] * size[1]
    if runs is None or not ((runs >= 0) & (runs <= pixels)).all() or runs.sum() != pixels:
        raise ValueError(
            f"got counts {_shown(counts)}, must be run lengths that make {size[1]}x{size[0]} pixels"
        )
    return runs


def _decompress(counts: bytes) -> NDArray[np.int64] | None:
    """The run lengths of a code from outside, None where it is cut or has foreign characters.

    pycocotools itself reads beyond the end of such a code.
    """
    digits = _digits(counts)
    if not len(digits) or digits.min() < 0 or digits.max() >= 2 * _MORE or digits[-1] & _MORE:
        return None
    numbers, starts = _read_numbers(digits)
    if np.diff(starts, append=len(digits)).max() > 7:  # groups of a 32-bit number
        return None
    return _undo_differences(numbers)


def _digits(counts: bytes) -> NDArray[np.int64]:
    return np.frombuffer(counts, np.uint8).astype(np.int64) - _FIRST_CHARACTER


def _read_numbers(digits: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The numbers of one code or several, and which of the digits begins each."""
    starts = np.concatenate(([0], np.flatnonzero(digits[:-1] & _MORE == 0) + 1))
    lengths = np.diff(starts, append=len(digits))
    places = np.arange(len(digits)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((digits & (_MORE - 1)) << (_BITS * places), starts)
    negative = digits[starts + lengths - 1] & _SIGN > 0
    numbers -= negative * (np.int64(1) << (_BITS * lengths))
    return numbers, starts


def _undo_differences(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """The runs of a code: from its fourth on a number is the difference to the run two before."""
    for parity in (1, 2):
        numbers[parity::2] = np.cumsum(numbers[parity::2])
    return numbers


def _shown(value: Any) -> str:
    text = ", ".join(map(str, itertools.islice(value, 4))) + ", ..." if _is_long(value) else repr(value)
    return f"[{text}]" if _is_long(value) else text if len(text) < 40 else f"{text[:40]}..."


def _is_long(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 4
