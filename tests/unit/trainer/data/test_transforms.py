"""Resizing and flipping, to the zoo's bytes and numbers."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

import golden_files
from kubedet_trainer.data import transforms
from kubedet_trainer.data.augment import FloatPixels
from kubedet_trainer.data.images import Pixels
from kubedet_trainer.data.transforms import Pipeline, Sample

_NO_BOXES = np.zeros((0, 4), np.float32)


def drawn(sample: Sample) -> Pixels | FloatPixels:
    """The pixels of a sample within a batch of larger ones, which they leave as it is."""
    height, width = sample.size
    canvas = np.full((height + 3, width + 5, 3), 77, sample.pixels.dtype)
    sample.draw(canvas[:height, :width])
    assert (canvas[height:] == 77).all()
    assert (canvas[:, width:] == 77).all()
    return np.ascontiguousarray(canvas[:height, :width])


def test_sizes_and_factors_are_the_zoos() -> None:
    rows = golden_files.read_unit("rescale")["rows"]
    for height, width, longest, shortest, new_height, new_width, factor in rows:
        found = transforms.scale_factor((height, width), scale=(longest, shortest))
        assert found == pytest.approx(factor, rel=1e-8)
        assert transforms.scaled_size((height, width), factor=found) == (new_height, new_width)


@pytest.mark.parametrize("name", ["img0", "img1"])
def test_resized_pixels_are_the_zoos_bytes(name: str) -> None:
    inputs = golden_files.read_inputs()
    sample = transforms.transform(
        inputs[name], boxes=_NO_BOXES, pipeline=Pipeline(scale=(320, 256)), flip=False
    )
    assert zlib.crc32(drawn(sample).tobytes()) == golden_files.read_unit("images")[name]["resized_crc32"]
    np.testing.assert_array_equal(drawn(sample), inputs[f"{name}_r320"])


@pytest.mark.parametrize("side", [300, 512])
def test_stretched_pixels_are_the_zoos_bytes(side: int) -> None:
    inputs = golden_files.read_inputs()
    pipeline = Pipeline(scale=(side, side), keep_aspect=False)
    sample = transforms.transform(inputs["img0"], boxes=_NO_BOXES, pipeline=pipeline, flip=False)
    np.testing.assert_array_equal(drawn(sample), inputs[f"img0_r{side}"])


def test_stretched_boxes_are_scaled_by_axis_and_mirrored_within_the_new_width() -> None:
    pixels = np.zeros((100, 200, 3), np.float32)
    box = np.array([[20, 30, 59, 49]], np.float32)
    pipeline = Pipeline(scale=(300, 250), keep_aspect=False)
    plain, mirrored = (
        transforms.transform(pixels, boxes=box, pipeline=pipeline, flip=flip) for flip in (False, True)
    )
    assert plain.size == (250, 300)
    assert drawn(plain).dtype == np.float32
    assert plain.scale_factors == (1.5, 2.5, 1.5, 2.5)
    assert plain.boxes.tolist() == [[30, 75, 88.5, 122.5]]
    assert mirrored.boxes.tolist() == [[299 - 88.5, 75, 299 - 30, 122.5]]


@pytest.mark.parametrize(("flip", "expected"), [(True, "flipped"), (False, "noflip")])
def test_boxes_are_scaled_flipped_and_clipped_as_the_zoo_did(flip: bool, expected: str) -> None:
    golden = golden_files.read_unit("flip")
    sample = transforms.transform(
        np.zeros((256, 208, 3), np.uint8),
        boxes=np.array(golden["boxes"], np.float32),
        pipeline=Pipeline(scale=(320, 256)),
        flip=flip,
    )
    assert [*sample.size, 3] == golden["img_shape"]
    assert sample.scale_factors == pytest.approx([golden["scale"]] * 4, rel=1e-8)
    np.testing.assert_allclose(sample.boxes, golden[expected], rtol=1e-6, atol=1e-5)
    padded = transforms.padded_size([sample.size], multiple=32)
    assert list(padded) == golden["pad_shape"][:2]


def test_flipped_pixels_are_mirrored() -> None:
    pixels = golden_files.read_inputs()["img0"]
    both = [
        drawn(transforms.transform(pixels, boxes=_NO_BOXES, pipeline=Pipeline(scale=(320, 256)), flip=flip))
        for flip in (False, True)
    ]
    np.testing.assert_array_equal(both[0][:, ::-1], both[1])


def test_a_batch_is_as_large_as_its_padded_images() -> None:
    assert transforms.padded_size([(800, 1067), (750, 1333)], multiple=32) == (800, 1344)
