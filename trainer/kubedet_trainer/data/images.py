"""Reads image files, and recognises broken ones. Imports no torch.

The header is looked at before anything is decoded, so that a small file cannot take much memory.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import IO, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kubedet_trainer.data import exif, files
from kubedet_trainer.data.columns import MAX_PIXELS
from kubedet_trainer.data.files import open_regular, read_regular
from kubedet_trainer.errors import InvalidInput, MissingInput

Pixels = NDArray[np.uint8]
"""(H, W, 3) in BGR order, as OpenCV decodes."""

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jp2", ".png", ".tif", ".tiff", ".webp"}
    | {".jfif", ".jpe", ".jpeg", ".jpg"}
    | {".pbm", ".pgm", ".pnm", ".ppm"}
)
"""Of images in folders, in lower case."""

_FORMATS = ("BMP", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of those whose size it reads. For a GIF it takes the memory of the first frame."""

_DEPTHS = (8, 10, 12, 14, 16)
"""Bits of the samples that cameras and scanners give."""

# Our limit is the caller's; Pillow's warns and raises by one of its own.
Image.MAX_IMAGE_PIXELS = None

_JPEG_START = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
_JPEG_SCAN = 0xDA
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND"


class ImageFlaw(NamedTuple):
    """Why an image cannot be used."""

    rule: str
    message: str


class _Header(NamedTuple):
    """What the first bytes of an image say."""

    width: int
    height: int
    """Both as stored."""
    orientation: int | None
    """EXIF's; None for TIFF, which Pillow and OpenCV turn by themselves."""


def read_image(file: Path, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode `file` as the zoo did: OpenCV, colour, EXIF orientation applied.

    Raises:
        MissingInput: there is no such file.
        InvalidInput: it is cut short, too large or not an image.
    """
    pixels = read(file, max_pixels=max_pixels)
    if isinstance(pixels, ImageFlaw):
        kind = MissingInput if pixels.rule == "missing-image" else InvalidInput
        raise kind(f"{file}: {pixels.message} [{pixels.rule}]; `kubedet check-data` lists all such files")
    return pixels


def describe_other_size(found: tuple[int, int], *, recorded: tuple[int, int]) -> str:
    """What is wrong with a picture of another height and width than its record says."""
    text = f"is {found[1]}x{found[0]}, must be {recorded[1]}x{recorded[0]} as its record says"
    if found != recorded[::-1]:
        return text
    return f"{text}; if EXIF turns it, annotate it as it is seen or remove the orientation from the file"


def read(file: Path, *, max_pixels: int = MAX_PIXELS) -> Pixels | ImageFlaw:
    """The pixels of `file`, or what is wrong with it."""
    data = read_data(file)
    return data if isinstance(data, ImageFlaw) else decode(data, max_pixels=max_pixels)


def read_data(file: Path) -> bytes | ImageFlaw:
    """The bytes of a regular file."""
    try:
        return read_regular(file)
    except OSError as error:
        return _unreadable(file, error)


def read_size(file: Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int] | ImageFlaw:
    """Height and width as `read` gives them, from the header alone, or what is wrong with the file."""
    try:
        with open_regular(file) as content:
            header = _header(content, max_pixels=max_pixels)
    except OSError as error:
        return _unreadable(file, error)
    if isinstance(header, ImageFlaw):
        return header
    is_swapped = header.orientation in exif.SWAPPED
    return (header.width, header.height) if is_swapped else (header.height, header.width)


def _unreadable(file: Path, error: OSError) -> ImageFlaw:
    if isinstance(error, FileNotFoundError):
        return ImageFlaw("missing-image", f"no such image, must be a file{files.describe_alike(file)}")
    return ImageFlaw("missing-image", f"cannot be read ({error.strerror}), must be a file")


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Pixels | ImageFlaw:
    """The pixels, or what is wrong with the file.

    OpenCV fills the missing part of a truncated file with grey without an error, so the end is checked here.
    """
    if _is_truncated(data):
        return ImageFlaw("truncated-image", "the file ends before the image does, must be complete")
    if isinstance(header := _header(BytesIO(data), max_pixels=max_pixels), ImageFlaw):
        return header
    try:
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
        flags |= 0 if header.orientation is None else cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        return ImageFlaw("undecodable-image", "not an image that OpenCV can decode, of 8 or 16 bits a sample")
    if pixels.dtype == np.uint16:
        pixels = _eight_bits(pixels.astype(np.uint16, copy=False))
    return exif.turn(pixels.astype(np.uint8, copy=False), header.orientation or 1)


def _eight_bits(pixels: NDArray[np.uint16]) -> Pixels:
    """Samples of 16 bits as 8, by the range that is in use.

    A sensor of 12 bits leaves the upper four of 16 at zero: the smallest usual depth that holds the brightest
    sample counts.
    """
    bits = int(pixels.max(initial=0)).bit_length()
    depth = next(depth for depth in _DEPTHS if depth >= bits)
    return (pixels >> np.uint16(depth - 8)).astype(np.uint8)


def _header(content: IO[bytes], *, max_pixels: int) -> _Header | ImageFlaw:
    try:
        header = _read_gif_header(content) or _read_header(content)
    except Exception:  # a damaged header may raise anything
        return ImageFlaw("undecodable-image", f"not an image, must be one of GIF, {', '.join(_FORMATS)}")
    if header.width * header.height > max_pixels:
        message = f"is {header.width}x{header.height}, must have at most {max_pixels} pixels"
        return ImageFlaw("image-too-large", message)
    return header


def _read_header(content: IO[bytes]) -> _Header:
    # Pillow warns of damaged EXIF, which does no harm here.
    with warnings.catch_warnings(action="ignore"), Image.open(content, formats=_FORMATS) as header:
        if header.format == "TIFF":
            return _Header(*header.size, None)
        return _Header(*header.size, exif.read_orientation(header.info.get("exif", b"")))


def _read_gif_header(content: IO[bytes]) -> _Header | None:
    """That of a GIF, None of anything else. OpenCV refuses frames beyond this size (GIF89a, 18)."""
    start = content.read(10)
    content.seek(0)
    if not start.startswith((b"GIF87a", b"GIF89a")):
        return None
    width, height = struct.unpack("<HH", start[6:])
    return _Header(width, height, 1)


def _is_truncated(data: bytes) -> bool:
    if data.startswith(_PNG_START):
        return _PNG_END not in _png_chunks(data)
    if not data.startswith(_JPEG_START) or data.endswith(_JPEG_END):
        return False
    # Some cameras append data of their own, so the end mark may lie earlier; but behind the first scan's
    # start, since an embedded thumbnail has an end mark too. Within a scan the mark cannot occur by chance:
    # there every 0xFF of the data is followed by a zero.
    scan = next((start for marker, start in _jpeg_segments(data) if marker == _JPEG_SCAN), len(data))
    return data.rfind(_JPEG_END, scan) < 0


def _png_chunks(data: bytes) -> Iterator[bytes]:
    """Types of the chunks that begin within a PNG. OpenCV takes as much memory as a chunk claims to have."""
    offset = len(_PNG_START)
    while offset + 8 <= len(data):
        yield data[offset + 4 : offset + 8]
        offset += 12 + int.from_bytes(data[offset : offset + 4], "big")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and offset of each segment of a JPEG's head, up to and with the first scan (ITU T.81, B.1.1)."""
    offset = 2
    while offset + 4 <= len(data) and data[offset] == 0xFF:
        marker = data[offset + 1]
        yield marker, offset
        if marker == _JPEG_SCAN:
            return
        offset += 2 + int.from_bytes(data[offset + 2 : offset + 4], "big")
