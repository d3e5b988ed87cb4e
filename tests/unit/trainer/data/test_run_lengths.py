"""Run-length codes: read from files, and made from what a mask head finds."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

import golden_files
from kubedet_trainer.data import run_lengths


def test_masks_are_pasted_as_the_zoo_did() -> None:
    golden = golden_files.read_unit("mask_paste")
    x, y = np.meshgrid(np.arange(28), np.arange(28))
    probabilities = np.stack(
        [
            (0.5 + 0.5 * np.sin(frequency * x + row) * np.cos(0.37 * y - row)).astype(np.float32)
            for row, frequency in enumerate(golden["f"])
        ]
    )
    boxes = np.array(golden["boxes"], np.float32) / np.float32(golden["scale"])
    size = (golden["ori_shape"][0], golden["ori_shape"][1])
    codes = list(run_lengths.paste(probabilities, boxes=boxes, size=size))
    assert [code.decode() for code in codes] == [code["counts"] for code in golden["rle"]]
    assert run_lengths.areas(codes).tolist() == golden["areas"]
    assert len(codes) == len(golden["labels0"])
    for code, expected in zip(codes, golden["bbox_of_mask"], strict=True):
        rle = {"size": list(size), "counts": code}
        assert coco_mask.toBbox(rle).tolist() == expected


side = st.integers(1, 12)
corner = st.integers(-6, 14)


@given(size=st.tuples(side, side), left=corner, top=corner, width=side, height=side, seed=st.integers(0, 99))
def test_a_pasted_mask_is_cut_at_the_image(
    size: tuple[int, int], left: int, top: int, width: int, height: int, seed: int
) -> None:
    cells = np.random.default_rng(seed).random((3, 3), np.float32)
    box = np.array([[left, top, left + width - 1, top + height - 1]], np.float32)
    (code,) = run_lengths.paste(cells[None], boxes=box, size=size)
    margin = 30
    canvas = np.zeros((size[0] + 2 * margin, size[1] + 2 * margin), np.uint8)
    part = np.s_[margin + top : margin + top + height, margin + left : margin + left + width]
    canvas[part] = cv2.resize(cells, (width, height)) > 0.5
    expected = np.asfortranarray(canvas[margin : margin + size[0], margin : margin + size[1]])
    assert code == coco_mask.encode(expected)["counts"]
    np.testing.assert_array_equal(run_lengths.decode(code, size=size), expected)


@given(size=st.tuples(side, side), seed=st.integers(0, 999), share=st.floats(0, 1))
def test_counts_mean_the_same_as_a_list_and_compressed(
    size: tuple[int, int], seed: int, share: float
) -> None:
    bitmap = np.asfortranarray(np.random.default_rng(seed).random(size) < share, np.uint8)
    code: bytes = coco_mask.encode(bitmap)["counts"]
    changes = np.flatnonzero(np.diff(bitmap.T.ravel(), prepend=0, append=2))
    counts = np.diff(changes, prepend=0).tolist()
    for form in (code.decode(), counts):
        assert run_lengths.compress({"size": list(size), "counts": form}, size=size) == code


@pytest.mark.parametrize("extra", [[], [[30, 10]], [[30, 10, 31, 10]]])
def test_parts_of_an_object_make_one_mask_and_parts_without_area_none(extra: list[list[int]]) -> None:
    parts = [[4, 5, 24, 5, 24, 15, 4, 15], [20, 10, 40, 10, 40, 20, 20, 20]]
    mask = run_lengths.decode(run_lengths.compress([*parts, *extra], size=(48, 64)), size=(48, 64))
    expected = np.zeros((48, 64), np.uint8)
    expected[5:15, 4:24] = expected[10:20, 20:40] = 1
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("corner", [math.inf, -math.inf, math.nan, 1e308])
def test_outline_without_a_finite_area_has_none(corner: float) -> None:
    assert run_lengths.area([[4, 5, 24, corner, 24, 15, -24, 1e308]]) == 0


@pytest.mark.parametrize("runs", [[1e308, 1e308, 1e308, 1e308], [0, 10**400], [0, math.nan]])
def test_counts_without_a_finite_area_have_none(runs: list[float]) -> None:
    assert run_lengths.area({"size": [48, 64], "counts": runs}) == 0
