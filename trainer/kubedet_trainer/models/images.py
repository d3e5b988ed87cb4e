"""From the pixels of a loader to what a detector sees (`zoo.md` 1.1)."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from kubedet_trainer.structures import Images


def normalise(
    pixels: Tensor,
    sizes: Tensor,
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    to_rgb: bool,
) -> Images:
    """Scale (B, 3, H, W) uint8 BGR `pixels` to ``(x - mean) / std``, zero beyond `sizes` (B, 2).

    With `to_rgb` the channels are reversed first; `mean` and `std` are in the order of the result.
    """
    channels = (pixels.flip(1) if to_rgb else pixels).float()
    scaled = (channels - _channel_values(mean, pixels.device)) / _channel_values(std, pixels.device)
    height, width = pixels.shape[-2:]
    rows = torch.arange(height, device=pixels.device)[:, None] < sizes[:, 0, None, None, None]
    columns = torch.arange(width, device=pixels.device) < sizes[:, 1, None, None, None]
    return Images(pixels=scaled.masked_fill_(~(rows & columns), 0), sizes=sizes)


@lru_cache(maxsize=16)
def _channel_values(values: tuple[float, float, float], device: torch.device) -> Tensor:
    """Constants on the device, made once: copying them there in every step would block."""
    return torch.tensor(values, device=device)[:, None, None]
