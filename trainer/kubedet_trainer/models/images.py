"""From the pixels of a loader to what a detector sees (`docs/zoo.md`, 1.1)."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from kubedet_trainer.structures import Batch, Images


class Normalisation(Protocol):
    """How pixels become the network's input; `config.NormalisationConfig` is one."""

    @property
    def mean(self) -> tuple[float, float, float]:
        """In the channel order that the network sees."""

    @property
    def std(self) -> tuple[float, float, float]:
        """In the channel order that the network sees."""

    @property
    def to_rgb(self) -> bool:
        """Whether the network sees RGB; False leaves BGR."""


def normalise(batch: Batch, normalisation: Normalisation) -> Images:
    """What a detector sees of `batch`: ``(x - mean) / std``, zero beyond each image's own size."""
    pixels, sizes = batch.pixels, batch.sizes
    channels = (pixels.flip(1) if normalisation.to_rgb else pixels).float()
    scaled = channels - _channel_values(normalisation.mean, pixels.device)
    scaled /= _channel_values(normalisation.std, pixels.device)
    height, width = pixels.shape[-2:]
    rows = torch.arange(height, device=pixels.device)[:, None] < sizes[:, 0, None, None, None]
    columns = torch.arange(width, device=pixels.device) < sizes[:, 1, None, None, None]
    return Images(pixels=scaled.masked_fill_(~(rows & columns), 0), sizes=sizes, proposals=batch.proposals)


@lru_cache(maxsize=16)
def _channel_values(values: tuple[float, float, float], device: torch.device) -> Tensor:
    """Constants on the device, made once: copying them there in every step would block."""
    return torch.tensor(values, device=device)[:, None, None]
