"""What training and evaluation ask of a detector, whatever its architecture."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kubedet_trainer.structures import Detections, Images, Targets


class Detector(nn.Module):
    """The base of every architecture."""

    def forward(self, images: Images, targets: Targets, generator: torch.Generator) -> dict[str, Tensor]:
        """The losses by name, scalars.

        Their shapes are static and nothing waits for the device; `generator`, on the images' device, draws
        what is random.
        """
        raise NotImplementedError

    def detect(self, images: Images, scale_factors: Tensor) -> list[Detections]:
        """The detections of each image, in pixels before it was scaled by (B, 4) `scale_factors`."""
        raise NotImplementedError
