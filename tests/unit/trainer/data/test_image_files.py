"""Reading image files, whole ones and broken ones."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dataset_builders import make_image
from kubedet_trainer.data import images
from kubedet_trainer.data.images import ImageFlaw
from kubedet_trainer.errors import InvalidInput, MissingInput
from memory_peak import memory_below


def test_pixels_are_those_of_opencv(shared: Path) -> None:
    file = next((shared / "data/coco_mini/images").glob("*.jpg"))
    np.testing.assert_array_equal(images.read_image(file), cv2.imread(str(file)))


@pytest.mark.parametrize("kept", [0.999, 0.6, 0.1])
def test_a_photograph_cut_short_is_refused(shared: Path, kept: float) -> None:
    for file in sorted((shared / "data/coco_mini/images").glob("*.jpg"))[:8]:
        data = file.read_bytes()
        flaw = images.decode(data[: int(len(data) * kept)])
        assert isinstance(flaw, ImageFlaw)
        assert flaw.rule == "truncated-image"


def test_an_embedded_thumbnail_does_not_hide_that_the_photograph_is_cut_short(tmp_path: Path) -> None:
    thumbnail = make_image(tmp_path, "small.jpg", width=16, height=16).read_bytes()
    photograph = make_image(tmp_path, "large.jpg", width=640, height=480).read_bytes()
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = photograph[:2] + segment + photograph[2:]
    assert isinstance(images.decode(whole), np.ndarray)
    cut = images.decode(whole[: len(whole) - 100])
    assert isinstance(cut, ImageFlaw)
    assert cut.rule == "truncated-image"


def test_data_behind_the_end_of_a_jpeg_does_not_matter(tmp_path: Path) -> None:
    data = make_image(tmp_path, "1.jpg").read_bytes()
    assert isinstance(images.decode(data + b"appended by a camera"), np.ndarray)


def test_a_progressive_jpeg_cut_between_its_scans_is_refused(tmp_path: Path) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    _, encoded = cv2.imencode(".jpg", coarse, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    data = encoded.tobytes()
    assert isinstance(images.decode(data), np.ndarray)
    last_scan = data.rfind(b"\xff\xda")
    assert data.find(b"\xff\xda") < last_scan
    assert isinstance(images.decode(data[:last_scan]), ImageFlaw)


def test_a_png_cut_short_is_refused(tmp_path: Path) -> None:
    data = make_image(tmp_path, "1.png").read_bytes()
    assert isinstance(images.decode(data), np.ndarray)
    assert isinstance(images.decode(data[:-20]), ImageFlaw)


def test_a_png_takes_no_memory_for_a_chunk_that_is_longer_than_the_file(tmp_path: Path) -> None:
    data = make_image(tmp_path, "1.png").read_bytes()
    start = data.index(b"IDAT") - 4
    with memory_below(2**24, what="a small file"):
        flaw = images.decode(data[:start] + bytes([0xE0]) + data[start + 1 :])
    assert isinstance(flaw, ImageFlaw)
    assert flaw.rule == "truncated-image"


def test_a_gif_takes_no_memory_for_a_frame_that_is_larger_than_the_image(tmp_path: Path) -> None:
    data = make_image(tmp_path, "1.gif").read_bytes()
    assert isinstance(images.decode(data), np.ndarray)
    assert images.read_size(tmp_path / "1.gif") == (48, 64)
    frame = data.index(bytes([0x2C, 0, 0, 0, 0, 64, 0, 48, 0])) + 5
    control = data.index(bytes([0x21, 0xF9, 4])) + 3
    large = bytearray(data)
    large[frame : frame + 4] = b"\xff" * 4
    large[control] = 2 << 2  # the frame is disposed of, for which Pillow fills its area
    with memory_below(2**24, what="a small file"):
        flaw = images.decode(bytes(large))
    assert isinstance(flaw, ImageFlaw)
    assert flaw.rule == "undecodable-image"


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff\xd9", b"GIF", b"\xff\xd8" + bytes(50) + b"\xff\xd9"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    assert isinstance(images.decode(data), ImageFlaw)


def test_errors_name_the_file_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"absent\.jpg: no such image"):
        images.read_image(tmp_path / "absent.jpg")
    (tmp_path / "text.jpg").write_text("x")
    with pytest.raises(InvalidInput, match=r"text\.jpg: .*undecodable-image.*kubedet check-data"):
        images.read_image(tmp_path / "text.jpg")


def _entry(kind: int, count: int, value: bytes) -> bytes:
    """EXIF with an orientation of this type, in its first directory."""
    head = b"Exif\0\0II*\0" + struct.pack("<IHHHI", 8, 1, 274, kind, count)
    return head + value.ljust(4, b"\0") + bytes(4)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("exif", "turned"),
    [
        (b"Exif\0\0garbage!garbage!", False),
        (b"Exif\0\0II*\0", False),
        (b"Exif\0\0II*\0\xff\xff\xff\x7f", False),
        (b"Exif\0\0XX*\0", False),
        (_entry(3, 1, b"\6\0")[:20], False),
        (_entry(3, 1, b"\x09\0"), False),
        (_entry(3, 1, b"\6\0"), True),
        (_entry(3, 0, b"\6\0"), True),
        (_entry(1, 1, b"\6"), True),
        (_entry(4, 1, b"\6"), True),
    ],
)
def test_odd_exif_neither_hides_a_sound_picture_nor_parts_its_size_from_its_pixels(
    exif: bytes, turned: bool, form: str, tmp_path: Path
) -> None:
    file = tmp_path / "x"
    Image.fromarray(np.zeros((24, 40, 3), np.uint8)).save(file, form, exif=exif)
    pixels = images.read(file)
    assert not isinstance(pixels, ImageFlaw)
    assert images.read_size(file) == pixels.shape[:2] == ((40, 24) if turned else (24, 40))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_that_of_opencv(orientation: int, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    exif = _entry(3, 1, bytes([orientation]))
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(images.read_image(tmp_path / "x.png"), cv2.imread(str(tmp_path / "x.png")))
