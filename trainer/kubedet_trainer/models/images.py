"""From the pixels of a loader to what the layers of a detector see (`docs/zoo.md`, 1.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from kubedet_trainer.models import host
from kubedet_trainer.models.options.task import NormalisationOptions
from kubedet_trainer.structures import Images


def normalise(images: Images, options: NormalisationOptions) -> Tensor:
    """The pixels (B, 3, H, W) float32 as ``(x - mean) / std``, zero beyond each image's own size."""
    pixels, sizes = images.pixels, images.sizes
    channels = pixels.flip(1) if options.to_rgb else pixels
    # A loader's pixels have their channels next to each other; layers are given each channel in one piece.
    scaled = torch.empty(channels.shape, device=pixels.device)
    torch.sub(channels, host.constant(options.mean, pixels.device)[:, None, None], out=scaled)
    scaled /= host.constant(options.std, pixels.device)[:, None, None]
    height, width = pixels.shape[-2:]
    below = torch.arange(height, device=pixels.device)[:, None] >= sizes[:, 0, None, None, None]
    beyond = torch.arange(width, device=pixels.device) >= sizes[:, 1, None, None, None]
    return scaled.masked_fill_(below | beyond, 0)
