"""Reads image files, and tells a broken one from a good one. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from kubedet_trainer.errors import InvalidInput, MissingInput

Pixels = NDArray[np.uint8]
"""(H, W, 3) in BGR order, as OpenCV decodes."""

_JPEG_START = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
_JPEG_SCAN = 0xDA
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND"


class ImageFlaw(NamedTuple):
    """Why an image cannot be used."""

    rule: str
    message: str


def read_image(file: Path) -> Pixels:
    """Decode `file` as the zoo did: OpenCV, colour, EXIF orientation applied.

    Raises:
        MissingInput: there is no such file.
        InvalidInput: it is cut short or not an image.
    """
    try:
        data = file.read_bytes()
    except FileNotFoundError as error:
        raise MissingInput(f"{file}: no such image") from error
    pixels = decode(data)
    if isinstance(pixels, ImageFlaw):
        raise InvalidInput(
            f"{file}: {pixels.message} [{pixels.rule}]; `kubedet check-data` lists all such files"
        )
    return pixels


def decode(data: bytes) -> Pixels | ImageFlaw:
    """The pixels, or what is wrong with the file.

    OpenCV fills the missing part of a truncated file with grey and goes on, so the end is looked for here.
    """
    if _is_truncated(data):
        return ImageFlaw("truncated-image", "the file ends before the image does, must be complete")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error:
        pixels = None
    if pixels is None:
        return ImageFlaw("undecodable-image", "not an image that OpenCV can decode")
    return pixels  # type: ignore[return-value]  # OpenCV's stubs do not know the element type


def _is_truncated(data: bytes) -> bool:
    if data.startswith(_PNG_START):
        return _PNG_END not in data[-64:] and _PNG_END not in data
    if not data.startswith(_JPEG_START) or data.endswith(_JPEG_END):
        return False
    # Some cameras append data of their own, so the end mark may lie earlier; but behind the first scan's
    # start, since an embedded thumbnail has an end mark too. Within a scan the mark cannot occur by chance:
    # there every 0xFF of the data is followed by a zero.
    scan = next((start for marker, start in _jpeg_segments(data) if marker == _JPEG_SCAN), len(data))
    return data.rfind(_JPEG_END, scan) < 0


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and offset of each segment of a JPEG's head, up to and with the first scan (ITU T.81, B.1.1)."""
    offset = 2
    while offset + 4 <= len(data) and data[offset] == 0xFF:
        marker = data[offset + 1]
        yield marker, offset
        if marker == _JPEG_SCAN:
            return
        offset += 2 + int.from_bytes(data[offset + 2 : offset + 4], "big")
