"""What training and evaluation ask of a detector, whatever its architecture."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kubedet_trainer.models.images import normalise
from kubedet_trainer.models.options.task import Task
from kubedet_trainer.structures import Detections, Images, Targets


class Detector(nn.Module):
    """The base of every architecture."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.normalisation = task.normalisation

    def forward(self, images: Images, targets: Targets, generator: torch.Generator) -> dict[str, Tensor]:
        """The losses by name, scalars.

        Their shapes are static and nothing waits for the device; `generator`, on the images' device, draws
        what is random.
        """
        raise NotImplementedError

    def detect(self, images: Images, scale_factors: Tensor) -> list[Detections]:
        """The detections of each image, in pixels before it was scaled by (B, 4) `scale_factors`."""
        raise NotImplementedError

    def normalised(self, images: Images) -> Tensor:
        """The pixels (B, 3, H, W) that the backbone of the detector takes."""
        return images.pixels if self.normalisation is None else normalise(images, self.normalisation)
