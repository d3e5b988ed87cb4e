"""The target of a mask head is, bit for bit, what the zoo cut out and resized with OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

import golden_files
import trainer_builders
from kubedet_trainer.models.mask_targets import mask_targets


def _resized_by_opencv(plane: np.ndarray, box: np.ndarray, *, size: int) -> np.ndarray:
    x1, y1, x2, y2 = box.astype(int)
    crop = plane[y1 : y1 + max(y2 - y1 + 1, 1), x1 : x1 + max(x2 - x1 + 1, 1)]
    return cv2.resize(crop, (size, size))


def test_targets_equal_the_goldens() -> None:
    golden = golden_files.read_unit("mask_target")
    y, x = np.mgrid[:256, :320]
    maps = np.zeros((2, 256, 320), np.uint8)
    maps[0, 40:150, 30:140] = 1
    maps[0, 60:90, 50:100] = 0
    maps[1] = ((x - 200) / 70) ** 2 + ((y - 120) / 50) ** 2 <= 1

    (found,) = mask_targets(
        trainer_builders.make_masks(maps[None]),
        torch.tensor([golden["gt_inds"]]),
        torch.tensor([golden["boxes"]]),
        size=28,
    )

    packed = [np.packbits(target.numpy()).tobytes().hex() for target in found]
    assert packed == golden["packed_hex"]


@pytest.mark.parametrize("blur", [0, 3, 9], ids=["noise", "fine", "coarse"])
@pytest.mark.parametrize("size", [14, 28])
def test_targets_equal_opencv_on_random_masks(blur: int, size: int) -> None:
    random = np.random.default_rng(size + blur)
    height, width = 144, 200
    noise = random.random((height, width, 3))
    maps = ((cv2.GaussianBlur(noise, (0, 0), blur) if blur else noise) > 0.5).astype(np.uint8)
    planes = np.ascontiguousarray(maps.transpose(2, 0, 1))
    begin = random.random((200, 2)) * [width - 1, height - 1]
    end = np.minimum(begin + random.random((200, 2)) ** 3 * 200, [width - 1, height - 1])
    boxes = np.concatenate([begin, end], axis=1).astype(np.float32)
    boxes[0] = 5, 7, 4 + size, 6 + size
    boxes[1] = 9, 2, 8 + 2 * size, 1 + 2 * size
    boxes[2] = 20.9, 30, 20.1, 29.5
    slots = random.integers(0, 3, 200)

    masks = trainer_builders.make_masks(planes[None])
    (found,) = mask_targets(masks, torch.from_numpy(slots)[None], torch.from_numpy(boxes)[None], size=size)

    for target, slot, box in zip(found.numpy(), slots, boxes, strict=True):
        np.testing.assert_array_equal(target, _resized_by_opencv(planes[slot], box, size=size), str(box))


def test_each_image_reads_its_own_masks() -> None:
    maps = np.zeros((2, 2, 8, 8), np.uint8)
    maps[1, 1] = 1
    masks = trainer_builders.make_masks(maps)
    whole = torch.tensor([0.0, 0, 7, 7]).expand(2, 2, 4)

    found = mask_targets(masks, torch.tensor([[0, 1], [0, 1]]), whole, size=4)

    assert found.flatten(2).all(dim=-1).tolist() == [[False, False], [False, True]]
