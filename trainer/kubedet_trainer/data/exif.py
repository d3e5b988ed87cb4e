"""How a camera was held, from a picture's EXIF.

Cameras and editors write damaged EXIF into sound pictures. OpenCV and Pillow then disagree on the
orientation, so it is read here, once, for the size and for the pixels. Imports no torch.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

_PREFIX = b"Exif\0\0"
_BYTE_ORDERS = {b"II": "<", b"MM": ">"}
_MARK = 42
_ENTRY_BYTES = 12
_ORIENTATION = 274

SWAPPED = range(5, 9)
"""Orientations that swap height and width."""
_FLIPS: Mapping[int, int] = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}
"""What `cv2.flip` does to a picture, after it was transposed if `SWAPPED` (EXIF 2.32, 4.6.5.1)."""


def read_orientation(exif: bytes) -> int:
    """The orientation, from 1 to 8 where a picture says what EXIF allows; 1 where it says nothing.

    Of whatever type the entry is, its first two bytes count (TIFF 6.0, section 2).
    """
    while exif.startswith(_PREFIX):
        exif = exif.removeprefix(_PREFIX)
    if (order := _BYTE_ORDERS.get(exif[:2])) is None:
        return 1
    try:
        mark, start = struct.unpack_from(f"{order}HI", exif, 2)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for entry in range(count if mark == _MARK else 0):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, start + 2 + entry * _ENTRY_BYTES)
            if tag == _ORIENTATION:
                return int(value)
    except struct.error:  # it ends before it says so
        pass
    return 1


def turn(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The picture as it was seen, from one as it is stored, which may be overwritten."""
    if orientation in SWAPPED:
        pixels = np.asarray(cv2.transpose(pixels), np.uint8)
    if (axis := _FLIPS.get(orientation)) is not None:
        cv2.flip(pixels, axis, dst=pixels)
    return pixels
