"""Normalisation equals the pipeline of the zoo."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

import golden_files
import trainer_builders
from kubedet_trainer.models.images import normalise
from kubedet_trainer.recipes.common import STYLES

Style = Literal["pytorch", "caffe"]


def _normalise(pixels: torch.Tensor, sizes: torch.Tensor, style: Style) -> torch.Tensor:
    return normalise(trainer_builders.make_batch(pixels, sizes).images, STYLES[style].normalisation)


def test_padded_image_equals_the_golden() -> None:
    inputs = golden_files.read_inputs()
    image, expected = inputs["img0_r320"], torch.from_numpy(inputs["img0_norm_pytorch_padded"])
    height, width = image.shape[:2]
    pixels = torch.full((1, 3, *expected.shape[1:]), 7, dtype=torch.uint8)
    pixels[0, :, :height, :width] = torch.from_numpy(image.transpose(2, 0, 1).copy())

    found = _normalise(pixels, torch.tensor([[height, width]]), "pytorch")

    torch.testing.assert_close(found[0], expected, rtol=1e-6, atol=1e-6)


def test_caffe_style_keeps_blue_first_and_zero_beyond_each_size() -> None:
    pixels = torch.full((2, 3, 4, 6), 128, dtype=torch.uint8)

    found = _normalise(pixels, torch.tensor([[4, 6], [2, 3]]), "caffe")

    torch.testing.assert_close(found[0, :, 0, 0], 128 - torch.tensor([102.9801, 115.9465, 122.7717]))
    assert (found[1] != 0).sum() == 3 * 2 * 3


@pytest.mark.parametrize("style", ["pytorch", "caffe"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_pixels_whose_channels_lie_together_give_the_same_planes(style: Style, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 8, 12), dtype=torch.uint8, generator=generator).to(dtype)
    sizes = torch.tensor([[8, 12], [5, 9]])

    planes = _normalise(pixels, sizes, style)
    found = _normalise(pixels.contiguous(memory_format=torch.channels_last), sizes, style)

    assert torch.equal(found, planes)
    assert found.is_contiguous()
