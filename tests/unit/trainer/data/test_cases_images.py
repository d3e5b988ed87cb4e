"""Kinds of image files that users have: each is read as it looks, or refused by name."""

from __future__ import annotations

import os
import socket
import struct
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dataset_builders import (
    ALONE,
    DATA,
    annotation_record,
    image_record,
    load_coco,
    make_image,
    problems_of,
    write_annotations,
)
from kubedet_trainer.data import images, loader, splits, transforms
from kubedet_trainer.data.images import ImageFlaw, Pixels
from kubedet_trainer.data.transforms import Pipeline
from kubedet_trainer.errors import InvalidInput

SIZE = (48, 64)
"""Height and width."""


def picture() -> NDArray[np.uint8]:
    """Red above blue, RGB."""
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[:24, :, 0] = 255
    pixels[24:, :, 2] = 255
    return pixels


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    content = BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


def decoded(data: bytes, **options: int) -> Pixels:
    pixels = images.decode(data, **options)
    assert isinstance(pixels, np.ndarray), pixels
    return pixels


def flaw_of(data: bytes, **options: int) -> ImageFlaw:
    flaw = images.decode(data, **options)
    assert isinstance(flaw, ImageFlaw)
    return flaw


MODES: dict[str, tuple[str, dict[str, Any]]] = {
    "CMYK": ("JPEG", {"quality": 95}),
    "P": ("PNG", {}),
    "RGBA": ("PNG", {}),
    "RGB": ("WEBP", {"lossless": True}),
    "YCbCr": ("JPEG", {"quality": 95}),
}


@pytest.mark.parametrize("mode", MODES)
def test_colours_are_those_that_are_seen(mode: str) -> None:
    form, options = MODES[mode]
    pixels = decoded(encoded(Image.fromarray(picture()).convert(mode), form, **options))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (*SIZE, 3)
    np.testing.assert_allclose(pixels[10, 30], [0, 0, 255], atol=6)
    np.testing.assert_allclose(pixels[40, 30], [255, 0, 0], atol=6)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_of_the_header_is_that_of_the_turned_picture(
    form: str, orientation: int, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    file = tmp_path / "x"
    file.write_bytes(encoded(Image.fromarray(picture()), form, exif=exif))
    pixels = images.read_image(file)
    assert images.read_size(file) == pixels.shape[:2] == (SIZE if orientation < 5 else SIZE[::-1])


@pytest.mark.parametrize("bits", [8, 9, 10, 12, 13, 14, 16])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bit_samples_are_scaled_by_the_range_that_is_used(bits: int, suffix: str) -> None:
    ramp = np.linspace(0, 2**bits - 1, 48 * 64).reshape(SIZE).astype(np.uint16)
    pixels = decoded(cv2.imencode(suffix, ramp)[1].tobytes())
    depth = next(depth for depth in (8, 10, 12, 14, 16) if depth >= bits)
    np.testing.assert_array_equal(pixels[..., 0], ramp >> (depth - 8))
    assert pixels.max() >= 127


def test_a_black_picture_of_sixteen_bits_is_black() -> None:
    assert decoded(cv2.imencode(".png", np.zeros(SIZE, np.uint16))[1].tobytes()).max() == 0


def test_samples_that_are_no_whole_numbers_are_refused() -> None:
    data = encoded(Image.fromarray(np.ones(SIZE, np.float32)), "TIFF")
    assert flaw_of(data).rule == "undecodable-image"


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims this size and has next to nothing in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(30000, 30000), (2**31 - 1, 1), (2**20, 2**20)])
def test_a_bomb_is_refused_by_its_header(
    width: int, height: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    assert flaw_of(png_header(width, height)).message == (
        f"is {width}x{height}, must have at most 268435456 pixels"
    )
    (tmp_path / "bomb.png").write_bytes(png_header(width, height))
    with pytest.raises(InvalidInput, match=r"bomb\.png: .*image-too-large"):
        images.read_image(tmp_path / "bomb.png")


def test_the_limit_of_pixels_is_a_setting() -> None:
    data = cv2.imencode(".png", picture())[1].tobytes()
    assert decoded(data, max_pixels=48 * 64).shape == (*SIZE, 3)
    assert flaw_of(data, max_pixels=48 * 64 - 1).rule == "image-too-large"


@pytest.mark.parametrize("kind", ["FIFO", "device", "socket", "folder"])
def test_only_regular_files_are_opened(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "1.jpg"
    match kind:
        case "FIFO":
            os.mkfifo(file)
        case "device":
            file.symlink_to("/dev/zero")
        case "socket":
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(file))
        case "folder":
            file.mkdir()
    for found in (images.read(file), images.read_size(file)):
        assert isinstance(found, ImageFlaw)
        assert found.rule == "missing-image"


def noise(width: int, height: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("damage", ["zeros", "noise", "missing middle"])
def test_check_data_finds_damaged_jpegs(damage: str, tmp_path: Path) -> None:
    data = cv2.imencode(".jpg", noise(320, 240))[1].tobytes()
    middle = len(data) // 2
    put = {"zeros": bytes(2000), "noise": noise(40, 17).tobytes()[:2000], "missing middle": b""}[damage]
    (tmp_path / "images").mkdir()
    (tmp_path / "images/1.jpg").write_bytes(data[:middle] + put + data[middle + 2000 :])
    (tmp_path / "images/2.jpg").write_bytes(data)
    records = [image_record(number, width=320, height=240) for number in (1, 2)]
    file = write_annotations(tmp_path / "x.json", images=records, annotations=[annotation_record(1, image=1)])
    (line,) = problems_of(file, images=tmp_path / "images")
    assert line.startswith(f"{tmp_path}/images/1.jpg: image 1: the decoder says 'Corrupt JPEG data")
    assert line.endswith("[damaged-image]")


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
def test_a_damaged_tiff_is_found(compression: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    image = tmp_path / "images/1.tif"
    Image.fromarray(picture()).save(image, compression=compression)
    data = bytearray(image.read_bytes())
    data[20:28] = b"\xff" * 8
    image.write_bytes(data)
    record = image_record(1) | {"file_name": "1.tif"}
    file = write_annotations(
        tmp_path / "x.json", images=[record], annotations=[annotation_record(1, image=1)]
    )
    (line,) = problems_of(file, images=tmp_path / "images")
    assert line.startswith(f"{image}: image 1: ")
    assert line.endswith("must be whole [damaged-image]")


def test_a_png_with_a_flipped_bit_is_refused() -> None:
    data = bytearray(cv2.imencode(".png", noise(64, 48))[1].tobytes())
    data[len(data) // 2] ^= 1
    assert flaw_of(bytes(data)).rule == "undecodable-image"


@pytest.mark.parametrize(("width", "height"), [(6000, 12), (12, 6000), (10000, 1), (1, 1), (1, 3000)])
def test_a_side_never_shrinks_below_a_pixel(width: int, height: int) -> None:
    pixels = np.full((height, width, 3), 7, np.uint8)
    boxes = np.array([[0, 0, width - 1, height - 1]], np.float32)
    sample = transforms.transform(pixels, boxes=boxes, pipeline=Pipeline(scale=(128, 96)), flip=True)
    assert min(sample.size) >= 1
    assert max(sample.size) <= 128
    sample.draw(np.empty((*sample.size, 3), np.uint8))
    assert np.isfinite(sample.boxes).all()


def small_split(root: Path, *, empty: int = 0) -> Any:
    for number in (1, 2, 3):
        make_image(root / "images", f"{number}.jpg", width=40, height=20)
    records = [image_record(number, width=40, height=20) for number in (1, 2, 3)]
    boxes = [annotation_record(n, image=n, bbox=(1, 1, 9, 9)) for n in range(1, 4 - empty)]
    return load_coco(
        write_annotations(root / "x.json", images=records, annotations=boxes), cache=root / "cache"
    )


def test_small_images_are_left_out_by_a_rule_that_is_named_and_kept_by_a_field(tmp_path: Path) -> None:
    annotations = small_split(tmp_path)
    with pytest.raises(InvalidInput) as refused:
        splits.training_split(annotations, folder=tmp_path / "images", data=DATA)
    assert "left out: 3 images with a side below 32 pixels (data.min_image_side)" in str(refused.value)
    data = replace(DATA, min_image_side=20)
    assert len(splits.training_split(annotations, folder=tmp_path / "images", data=data)) == 3


def test_images_without_objects_are_counted_or_kept_by_a_field(tmp_path: Path) -> None:
    annotations = small_split(tmp_path, empty=1)
    data = replace(DATA, min_image_side=16)
    split = splits.training_split(annotations, folder=tmp_path / "images", data=data)
    assert split.rows.tolist() == [0, 1]
    reasons = splits.images_left_out(annotations, data)
    assert reasons == {"images without objects (kept by data.keep_empty)": 1}
    kept = replace(data, keep_empty=True)
    split = splits.training_split(annotations, folder=tmp_path / "images", data=kept)
    assert split.rows.tolist() == [0, 1, 2]
    assert split.learnable().all()
    assert splits.images_left_out(annotations, kept) == {}


@pytest.mark.parametrize("augmentation", ["flip", "ssd"])
def test_images_without_objects_reach_the_batches_as_they_are(augmentation: Any, tmp_path: Path) -> None:
    annotations = small_split(tmp_path, empty=2)
    data = replace(
        DATA, min_image_side=16, keep_empty=True, augmentation=augmentation, scale=(64, 32), pad_multiple=32
    )
    split = splits.training_split(annotations, folder=tmp_path / "images", data=data)
    batches = loader.train_loader(
        split,
        plan=loader.sampling_plan(split, images_per_process=1, global_batch=1, seed=0),
        pipeline=Pipeline.of_training(data),
        world=ALONE,
        end_iteration=3,
        num_workers=0,
    )
    found = {int(batch.image_ids): int(batch.targets.valid.sum()) for batch in batches}
    assert found == {1: 1, 2: 0, 3: 0}
