"""Levels lie on their sheet with one cell between them, and can be taken off it again."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kubedet_trainer.models.anchors import AnchorGrid, pyramid_anchors
from kubedet_trainer.models.sheet import Sheet, SheetAnchorGrid

ZOO = [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)]
"""The levels of the largest images of the zoo."""
SMALL = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
"""The coarsest three together are taller than the level at their left."""
SHAPES = [ZOO, SMALL, SMALL[:3], SMALL[:2], SMALL[:1]]


def _levels(shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(2, 3, *shape, generator=generator) + 1 for shape in shapes]


@pytest.mark.parametrize("shapes", SHAPES)
def test_levels_come_off_as_they_were_laid_on_and_the_rest_is_gap(shapes: list[tuple[int, int]]) -> None:
    sheet, levels = Sheet(shapes), _levels(shapes)

    maps = sheet.maps(levels, gap=-1)

    for found, level in zip(sheet.levels(maps), levels, strict=True):
        assert torch.equal(found, level)
    assert len(maps) == min(len(shapes), 2)
    cells = sum(height * width for height, width in shapes)
    gaps = sum((own[0, 0] == -1).sum().item() for own in maps)
    assert gaps == sum(own[0, 0].numel() for own in maps) - cells


@pytest.mark.parametrize("shapes", SHAPES[:3])
def test_no_cell_has_a_neighbour_of_another_level(shapes: list[tuple[int, int]]) -> None:
    sheet = Sheet(shapes)
    numbers = [torch.full((1, 1, *shape), float(level)) for level, shape in enumerate(shapes)]

    (_, numbered) = sheet.maps(numbers, gap=math.nan)

    patches = F.unfold(F.pad(numbered, (1,) * 4, value=math.nan), kernel_size=3)[0]
    own = patches[4]
    alien = (patches != own) & patches.isfinite() & own.isfinite()
    assert not alien.any()


def test_gaps_take_little_room() -> None:
    height, width = Sheet(ZOO).size
    cells = sum(rows * columns for rows, columns in ZOO)

    assert height * width + math.prod(ZOO[0]) < 1.04 * cells


def test_gaps_are_zero_after_a_layer_and_pass_no_gradient() -> None:
    sheet, levels = Sheet(SMALL), _levels(SMALL)
    (_, laid_out) = sheet.maps(levels)
    laid_out = torch.ones_like(laid_out).requires_grad_()

    hidden = F.relu(laid_out + sheet.closed_gaps(laid_out))
    torch.autograd.backward(hidden.sum())

    ones = sheet.maps([torch.ones_like(level) for level in levels])[1]
    assert torch.equal(hidden, ones)
    assert laid_out.grad is not None
    assert torch.equal(laid_out.grad, ones)


def test_anchors_are_those_of_the_levels_and_gaps_have_none_within_an_image() -> None:
    strides = (8, 16, 32, 64, 128)
    bases = pyramid_anchors(strides, scales=(4,), ratios=(0.5, 1, 2))
    plain, laid_out = (grid(strides=strides, bases=bases) for grid in (AnchorGrid, SheetAnchorGrid))
    levels = _levels(SMALL)
    sizes = torch.tensor([[64, 96], [40, 64]])

    anchors, within = laid_out(levels), laid_out.within(sizes, levels)

    assert len(anchors) > len(plain(levels))
    for found, expected in zip(within, plain.within(sizes, levels), strict=True):
        assert sorted(anchors[found].tolist()) == sorted(plain(levels)[expected].tolist())
