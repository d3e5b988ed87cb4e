"""Augmentation: the single shot detector's to the zoo's numbers, and colours alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import golden_files
from kubedet_trainer.config import ColourConfig, DataConfig
from kubedet_trainer.data import augment
from kubedet_trainer.data.augment import Augmented
from kubedet_trainer.data.transforms import Pipeline
from kubedet_trainer.models.options.task import NormalisationOptions
from kubedet_trainer.recipes.ssd import COLOURS

FILL = (103.53, 116.28, 123.675)


class Legacy:
    """Numbers as the zoo drew them, from NumPy's old generator."""

    def __init__(self, seed: int) -> None:
        self._state = np.random.RandomState(seed)

    def uniform(self, low: float, high: float) -> float:
        return self._state.uniform(low, high)

    def integers(self, high: int) -> int:
        return int(self._state.randint(high))

    def permutation(self, count: int) -> NDArray[Any]:
        return self._state.permutation(count)


@pytest.mark.parametrize("number", range(12))
def test_each_golden_case_is_reproduced(number: int) -> None:
    golden = golden_files.read_unit("ssd_aug")
    case = golden["cases"][number]
    found = augment.augment(
        golden_files.read_inputs()["img0"],
        boxes=np.array(golden["boxes"], np.float32),
        colours=COLOURS,
        fill=FILL,
        random=Legacy(case["seed"]),
    )
    assert found.pixels.dtype == np.float32
    assert list(found.pixels.shape) == case["shape"]
    np.testing.assert_allclose(found.pixels.mean((0, 1), np.float64), case["mean_bgr"], rtol=1e-7)
    np.testing.assert_allclose(found.pixels.std(dtype=np.float64), case["std"], rtol=1e-8)
    assert found.boxes.tolist() == case["boxes"]
    assert [golden["labels"][index] for index in found.kept] == case["labels"]


def augmented(seed: int, *, boxes: NDArray[np.float32], pixels: NDArray[np.uint8]) -> Augmented:
    random = np.random.default_rng(seed)
    return augment.augment(pixels, boxes=boxes, colours=COLOURS, fill=FILL, random=random)


def recoloured(pixels: NDArray[np.uint8], colours: ColourConfig, *, seed: int) -> NDArray[np.float32]:
    boxes = np.array([[1, 2, 3, 4]], np.float32)
    random = np.random.default_rng(seed)
    found = augment.augment(pixels, boxes=boxes, colours=colours, fill=None, random=random)
    assert (found.boxes.tolist(), found.kept.tolist()) == (boxes.tolist(), [0])
    assert found.pixels.shape == pixels.shape
    return found.pixels


def test_boxes_stay_on_what_they_enclose() -> None:
    pixels = np.zeros((120, 160, 3), np.uint8)
    boxes = np.array([[20, 30, 59, 49], [100, 60, 119, 99], [0, 0, 4, 4]], np.float32)
    for x1, y1, x2, y2 in boxes.astype(int):
        pixels[y1 : y2 + 1, x1 : x2 + 1] = 255
    given = boxes.copy()
    num_kept = set()
    for seed in range(60):
        found = augmented(seed, boxes=boxes, pixels=pixels)
        num_kept.add(len(found.kept))
        height, width = found.pixels.shape[:2]
        assert (found.boxes[:, :2] >= 0).all()
        for box, row in zip(found.boxes, found.kept, strict=True):
            x1, y1, x2, y2 = box.astype(int)
            inside = found.pixels[y1 : min(y2, height - 1) + 1, x1 : min(x2, width - 1) + 1]
            assert np.ptp(inside, axis=(0, 1)).max() < 1e-3, (seed, row)  # of one colour, hence all object
    assert num_kept == {1, 2, 3}
    np.testing.assert_array_equal(boxes, given)


def test_the_fill_is_the_mean_in_blue_green_red() -> None:
    def fill(*, to_rgb: bool) -> tuple[float, float, float] | None:
        normalisation = NormalisationOptions(mean=(1, 2, 3), std=(1, 1, 1), to_rgb=to_rgb)
        return Pipeline.of_training(DataConfig(normalisation=normalisation, augmentation="ssd")).zoom_fill

    assert fill(to_rgb=True) == (3, 2, 1)
    assert fill(to_rgb=False) == (1, 2, 3)


GREY = np.full((4, 6, 3), 100, np.uint8)


def test_brightness_is_added_to_every_second_image_and_stays_within_its_bound() -> None:
    means = [float(recoloured(GREY, ColourConfig(brightness=20), seed=seed).mean()) for seed in range(300)]
    changes = np.array(means) - 100
    changed = changes[np.abs(changes) > 1e-3]
    assert 120 < len(changed) < 180
    assert np.abs(changed).max() <= 20.001
    assert changed.min() < -15
    assert changed.max() > 15


def test_contrast_multiplies_by_a_factor_within_its_range() -> None:
    colours = ColourConfig(contrast=(0.5, 1.25))
    factors = np.array([float(recoloured(GREY, colours, seed=seed).mean()) / 100 for seed in range(300)])
    assert 0.499 < factors.min() < 0.6
    assert 1.15 < factors.max() < 1.251
    assert 120 < (np.abs(factors - 1) > 1e-5).sum() < 180


def test_hue_and_saturation_leave_grey_and_change_colours() -> None:
    colours = ColourConfig(hue=90, saturation=(0.2, 0.4))
    red = np.zeros((4, 6, 3), np.uint8)
    red[..., 2] = 200
    seen = {tuple(recoloured(red, colours, seed=seed)[0, 0].round().tolist()) for seed in range(40)}
    assert len(seen) > 10
    assert all(max(pixel) == 200 for pixel in seen)
    for seed in range(10):
        np.testing.assert_allclose(recoloured(GREY, colours, seed=seed), 100, atol=1e-3)


def test_channels_change_places() -> None:
    pixels = np.full((4, 6, 3), (10, 20, 30), np.uint8)
    orders = {
        tuple(recoloured(pixels, ColourConfig(swap_channels=True), seed=seed)[0, 0].round().tolist())
        for seed in range(60)
    }
    assert len(orders) == 6
    assert all(sorted(order) == [10, 20, 30] for order in orders)
