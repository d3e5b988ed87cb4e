"""Anchors are integers in a fixed order, and their grids are made once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

import golden_files
from kubedet_trainer.models import boxes
from kubedet_trainer.models.anchors import AnchorGrid, base_anchors, pyramid_anchors, single_shot_anchors

STRIDES = (4, 8, 16, 32, 64)
RETINA_SCALES = tuple(4 * 2 ** (octave / 3) for octave in range(3))


@pytest.fixture(scope="module")
def goldens() -> dict[str, Any]:
    return golden_files.read_unit("anchors")


def _grid(strides: Sequence[int] = STRIDES) -> AnchorGrid:
    return AnchorGrid(strides=strides, bases=pyramid_anchors(strides, scales=(8,), ratios=(0.5, 1, 2)))


def _pyramid(height: int, width: int) -> list[torch.Tensor]:
    return [torch.empty(1, 1, -(-height // stride), -(-width // stride)) for stride in STRIDES]


@pytest.mark.parametrize(("name", "scales"), [("rpn_r50_fpn", (8,)), ("retinanet_r50_fpn", RETINA_SCALES)])
def test_base_anchors_equal_the_goldens(
    goldens: dict[str, Any], name: str, scales: tuple[float, ...]
) -> None:
    for stride, expected in zip(goldens[name]["strides"], goldens[name]["base"], strict=True):
        assert base_anchors(stride, scales=scales, ratios=(0.5, 1, 2)).tolist() == expected


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("ssd300_coco", (21, 45, 99, 153, 207, 261, 315)),
        ("ssd300_voc", (30, 60, 111, 162, 213, 264, 315)),
        ("ssd512_coco", (20, 51, 133, 215, 296, 378, 460, 542)),
        ("ssd512_voc", (35, 76, 153, 230, 307, 384, 460, 537)),
    ],
)
def test_single_shot_anchors_equal_the_goldens(
    goldens: dict[str, Any], name: str, sizes: tuple[int, ...]
) -> None:
    expected = goldens[name]
    for level, (stride, base) in enumerate(zip(expected["strides"], expected["base"], strict=True)):
        anchors = single_shot_anchors(
            stride, size=sizes[level], next_size=sizes[level + 1], largest_ratio=len(base) // 2
        )

        assert anchors.tolist() == base


def test_cells_follow_each_other_along_rows(goldens: dict[str, Any]) -> None:
    anchors = _grid((8,))([torch.empty(1, 1, 3, 4)])

    assert anchors.tolist() == goldens["rpn_grid_level1_3x4"]


def test_anchors_inside_an_image_are_as_many_as_the_goldens_count(goldens: dict[str, Any]) -> None:
    golden = goldens["rpn_inside_counts"]
    anchors = _grid()(_pyramid(320, 320))

    assert len(anchors) == golden["total"]
    for shape, count in zip(golden["img_shapes"], golden["counts"], strict=True):
        assert boxes.inside(anchors, torch.tensor(shape)).sum() == count


def test_cells_that_begin_in_an_image_are_as_many_as_the_goldens_count(goldens: dict[str, Any]) -> None:
    golden = goldens["rpn_valid_counts_per_level"]
    pyramid = _pyramid(*golden["batch_hw"])

    within = _grid().within(torch.tensor(golden["pad_shapes"]), pyramid)

    per_level = torch.split(within, [3 * feature.numel() for feature in pyramid], dim=1)
    assert [[level[i].sum().item() for level in per_level] for i in range(3)] == golden["counts"]


def test_cells_beyond_the_first_of_two_images_are_not_its_own() -> None:
    within = _grid((8,)).within(torch.tensor([[9, 16], [24, 32]]), [torch.empty(2, 1, 3, 4)])

    cells = within.view(2, 3, 4, 3)
    assert cells[0, :2, :2].all()
    assert cells[0].sum() == 2 * 2 * 3, "9 rows of pixels reach the second row of cells"
    assert cells[1].all()


def test_an_image_of_the_zoo_has_268569_anchors() -> None:
    assert _grid()(_pyramid(800, 1344)).shape == (268_569, 4)


def test_grid_of_a_shape_is_made_once_and_few_shapes_are_kept() -> None:
    grid = _grid()
    first = grid(_pyramid(64, 64))
    assert grid(_pyramid(64, 64)) is first

    for height in range(128, 128 + 64 * 8, 64):
        grid(_pyramid(height, 64))

    assert grid(_pyramid(64, 64)) is not first


def test_anchors_are_not_in_the_state_dict() -> None:
    assert not _grid().state_dict()
