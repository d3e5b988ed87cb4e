"""Deformable pooling of regions against the formula, written as loops."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from kubedet_trainer.models.deformable import DeformableRoiPool, _Guide
from kubedet_trainer.models.options.two_stage import RoiKind, RoiOptions
from kubedet_trainer.models.pooling import tabulate
from kubedet_trainer.models.roi import build_roi_extractor

CHANNELS, SIZE, STRIDES = 3, 2, (4, 8)
REGIONS = [
    [[5.5, 6.5, 40.2, 30.9], [0.0, 0.0, 11.0, 7.5]],
    [[-9.5, 3.0, 100.4, 90.0], [50.0, 30.0, 50.2, 30.2]],
]
"""Of two images: halves, an edge on the limit of the map, one that leaves it, one below a pixel."""


def _extractor(kind: RoiKind, *, seed: int = 0) -> DeformableRoiPool:
    """Its layers say something else than zero."""
    torch.manual_seed(seed)
    options = RoiOptions(kind=kind, size=SIZE, finest_roi=20, offset_channels=5)
    extractor = build_roi_extractor(options, channels=CHANNELS, strides=STRIDES)
    assert isinstance(extractor, DeformableRoiPool)
    for parameter in extractor.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return extractor.double()


def _features() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(2, CHANNELS, 64 // stride, 72 // stride, generator=generator, dtype=torch.double)
        for stride in STRIDES
    ]


def _interpolate(channel: list[list[float]], h: float, w: float) -> float:
    top, left = math.floor(h), math.floor(w)
    bottom, right = math.ceil(h), math.ceil(w)
    upper = channel[top][left] * (1 - w + left) + channel[top][right] * (w - left)
    lower = channel[bottom][left] * (1 - w + left) + channel[bottom][right] * (w - left)
    return upper * (1 - h + top) + lower * (h - top)


def _loop_over_samples(
    image: torch.Tensor, region: Sequence[float], *, scale: float, offsets: list[list[list[float]]]
) -> torch.Tensor:
    """(C, SIZE, SIZE) of one region: `docs/zoo.md`, 2.6, line by line."""
    height, width = image.shape[1:]
    x1, y1, x2, y2 = (math.copysign(math.floor(abs(corner) + 0.5), corner) for corner in region)
    left, top = x1 * scale - 0.5, y1 * scale - 0.5
    roi_width = max((x2 + 1) * scale - 0.5 - left, 0.1)
    roi_height = max((y2 + 1) * scale - 0.5 - top, 0.1)
    result = torch.zeros(CHANNELS, SIZE, SIZE, dtype=torch.double)
    for channel, row, column in torch.cartesian_prod(*map(torch.arange, result.shape)).tolist():
        w0 = left + column * roi_width / SIZE + 0.1 * offsets[0][row][column] * roi_width
        h0 = top + row * roi_height / SIZE + 0.1 * offsets[1][row][column] * roi_height
        kept = []
        for i, j in torch.cartesian_prod(torch.arange(4), torch.arange(4)).tolist():
            w, h = w0 + i * roi_width / (SIZE * 4), h0 + j * roi_height / (SIZE * 4)
            if -0.5 <= w <= width - 0.5 and -0.5 <= h <= height - 0.5:
                inside = min(max(h, 0), height - 1), min(max(w, 0), width - 1)
                kept.append(_interpolate(image[channel].tolist(), *inside))
        result[channel, row, column] = sum(kept) / len(kept) if kept else 0
    return result


def _loop_over_regions(
    extractor: DeformableRoiPool, features: Sequence[torch.Tensor], *, levels: Sequence[int]
) -> torch.Tensor:
    pooled = []
    for index, level in enumerate(levels):
        image, region = features[level][index // 2], REGIONS[index // 2][index % 2]
        scale = 1 / STRIDES[level]
        layers = extractor.roi_layers[level]
        assert isinstance(layers, _Guide)
        nowhere = [[[0.0] * SIZE] * SIZE] * 2
        plain = _loop_over_samples(image, region, scale=scale, offsets=nowhere).flatten()
        offsets = layers.offset_fc(plain).view(2, SIZE, SIZE).tolist()
        found = _loop_over_samples(image, region, scale=scale, offsets=offsets)
        pooled.append(found if layers.mask_fc is None else found * layers.mask_fc(plain).view(SIZE, SIZE))
    return torch.stack(pooled)


@pytest.mark.parametrize("kind", ["deformable", "modulated"])
@pytest.mark.parametrize("training", [True, False])
def test_pooling_equals_loops_over_the_formula(kind: RoiKind, training: bool) -> None:
    extractor, features = _extractor(kind).train(training), _features()

    with torch.no_grad():
        pooled = extractor(tabulate(features), torch.tensor(REGIONS, dtype=torch.double))
        expected = _loop_over_regions(extractor, features, levels=[0, 0, 1, 0])

    torch.testing.assert_close(pooled, expected, rtol=1e-9, atol=1e-9)


def test_gradients_of_features_and_layers_are_right() -> None:
    extractor, regions = _extractor("modulated"), torch.tensor(REGIONS, dtype=torch.double)
    names, weights = zip(*extractor.named_parameters(), strict=True)

    def pool(*tensors: torch.Tensor) -> torch.Tensor:
        parameters = dict(zip(names, tensors[2:], strict=True))
        cells = tabulate(tensors[:2])
        pooled: torch.Tensor = torch.func.functional_call(extractor, parameters, (cells, regions))
        return pooled

    leaves = [feature.requires_grad_() for feature in _features()]
    assert torch.autograd.gradcheck(pool, (*leaves, *weights), fast_mode=True)


@pytest.mark.parametrize(("kind", "share"), [("deformable", 1.0), ("modulated", 0.5)])
def test_fresh_layers_leave_bins_in_their_place(kind: RoiKind, share: float) -> None:
    torch.manual_seed(0)
    options = RoiOptions(kind=kind, size=2, offset_channels=4)
    extractor = build_roi_extractor(options, channels=1, strides=(4,))
    ramp = torch.arange(16.0).expand(1, 1, 8, 16)

    pooled = extractor(tabulate([ramp]), torch.tensor([[[8.0, 8.0, 23.0, 23.0]]]))

    # Columns 1.5 to 5.5 in two bins of samples 0.5 apart, the first at the bin's left edge.
    assert pooled[0, 0].tolist() == [[share * 2.25, share * 4.25]] * 2


def test_every_level_has_gradients_though_no_region_is_on_it() -> None:
    extractor, features = _extractor("modulated"), _features()

    extractor(tabulate(features), torch.tensor(REGIONS, dtype=torch.double)[:, 1:]).sum().backward()

    coarse = extractor.get_submodule("roi_layers.1")
    assert all(weight.grad is not None and not weight.grad.any() for weight in coarse.parameters())
