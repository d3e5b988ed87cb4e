"""Regions are pooled from the level of their size, with the old operator's geometry."""

from __future__ import annotations

import pytest
import torch

import golden_files
from kubedet_trainer.models.options.two_stage import RoiKind, RoiOptions
from kubedet_trainer.models.pooling import map_levels, tabulate
from kubedet_trainer.models.roi import RoiAlign, build_roi_extractor, extract


def test_sides_map_to_levels_at_the_published_borders() -> None:
    sides = torch.tensor([30.0, 56, 111, 112, 223, 224, 447, 448, 900])
    squares = torch.stack([torch.zeros(9), torch.zeros(9), sides - 1, sides - 1], dim=1)

    assert map_levels(squares, num_levels=4, finest_roi=56).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_levels_equal_the_goldens() -> None:
    golden = golden_files.read_unit("level_map")
    regions = torch.tensor(golden["rois"])[:, 1:]

    assert map_levels(regions, num_levels=4, finest_roi=56).tolist() == golden["levels"]


def _ramp(height: int, width: int) -> torch.Tensor:
    """A map whose value is its column: pooling it gives the columns that bins are centred on."""
    return torch.arange(width).float().expand(1, 1, height, width)


def test_bins_are_centred_without_half_pixel_shift() -> None:
    pool = RoiAlign(size=2, strides=(4,), finest_roi=56)

    pooled = pool(tabulate([_ramp(8, 16)]), torch.tensor([[[8.0, 8.0, 23.0, 23.0]]]))

    assert pooled[0, 0].tolist() == [[3, 5], [3, 5]], "columns 2 to 6 of the map in two bins"


def test_each_region_comes_from_its_own_level_and_image() -> None:
    features = [torch.full((2, 1, 64, 64), 1.0), torch.full((2, 1, 32, 32), 2.0)]
    features[0][1] = 10
    features[1][1] = 20
    small, large = [8.0, 8, 40, 40], [8.0, 8, 150, 150]

    pooled = RoiAlign(size=1, strides=(4, 8), finest_roi=56)(
        tabulate(features), torch.tensor([[small, large], [large, small]])
    )

    assert pooled.flatten().tolist() == [1, 2, 20, 10]


def test_gradient_reaches_only_the_level_of_the_region() -> None:
    features = [torch.zeros(1, 1, size, size, requires_grad=True) for size in (32, 16)]

    RoiAlign(size=3, strides=(4, 8), finest_roi=56)(
        tabulate(features), torch.tensor([[[0.0, 0, 60, 60]]])
    ).sum().backward()

    first, second = (level.grad for level in features)
    assert first is not None
    assert second is not None
    assert first.sum().item() == pytest.approx(9, rel=1e-5)
    assert second.abs().sum() == 0


@pytest.mark.parametrize("kind", ["align", "deformable"])
def test_pooling_together_is_pooling_one_by_one(kind: RoiKind) -> None:
    features = [torch.rand(2, 3, size, size, dtype=torch.double, requires_grad=True) for size in (32, 16)]
    extractors = [
        build_roi_extractor(options, channels=3, strides=(4, 8)).double()
        for options in (RoiOptions(kind=kind, size=2, offset_channels=4), RoiOptions(size=5))
    ]
    corners = torch.rand(2, 7, 2, dtype=torch.double) * 60
    boxes = torch.cat([corners, corners + torch.rand(2, 7, 2, dtype=torch.double) * 60], dim=-1)
    wanted = [(extractors[0], boxes), (extractors[1], boxes[:, :4])]

    together = extract(tabulate(features), wanted)
    one_by_one = [extractor(tabulate(features), own) for extractor, own in wanted]

    torch.testing.assert_close(together, one_by_one)
    gradients, expected = (
        torch.autograd.grad(torch.stack([pooled.sin().sum() for pooled in both]).sum(), features)
        for both in (together, one_by_one)
    )
    torch.testing.assert_close(gradients, expected)


def test_box_that_ends_before_it_begins_has_no_negative_side() -> None:
    pool = RoiAlign(size=1, strides=(4,), finest_roi=56)

    pooled = pool(tabulate([_ramp(8, 16)]), torch.tensor([[[20.0, 23.0, 10.0, 8.0]]]))

    assert pooled.item() == pytest.approx(5)


def test_no_region_gives_no_features() -> None:
    pool = RoiAlign(size=2, strides=(4,), finest_roi=56)

    assert pool(tabulate([torch.zeros(1, 3, 8, 16)]), torch.zeros(1, 0, 4)).shape == (0, 3, 2, 2)
