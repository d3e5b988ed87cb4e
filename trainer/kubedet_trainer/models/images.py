"""From the pixels of a loader to what the layers of a detector see (`docs/zoo.md`, 1.1)."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from kubedet_trainer.models.options.task import NormalisationOptions
from kubedet_trainer.structures import Images


def normalise(images: Images, options: NormalisationOptions) -> Tensor:
    """The pixels (B, 3, H, W) float32 as ``(x - mean) / std``, zero beyond each image's own size."""
    pixels, sizes = images.pixels, images.sizes
    channels = (pixels.flip(1) if options.to_rgb else pixels).float()
    scaled = channels - _channel_values(options.mean, pixels.device)
    scaled /= _channel_values(options.std, pixels.device)
    height, width = pixels.shape[-2:]
    rows = torch.arange(height, device=pixels.device)[:, None] < sizes[:, 0, None, None, None]
    columns = torch.arange(width, device=pixels.device) < sizes[:, 1, None, None, None]
    return scaled.masked_fill_(~(rows & columns), 0)


@lru_cache(maxsize=16)
def _channel_values(values: tuple[float, float, float], device: torch.device) -> Tensor:
    """Constants on the device, made once: copying them there in every step would block."""
    return torch.tensor(values, device=device)[:, None, None]
