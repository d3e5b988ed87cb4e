"""What detectors on a feature pyramid have in common (`docs/zoo.md`, 2.1 and 3)."""

from __future__ import annotations

from torch import Tensor

from kubedet_trainer.models.backbones.resnet import ResNet
from kubedet_trainer.models.detector import Detector
from kubedet_trainer.models.fpn import Fpn
from kubedet_trainer.models.options.detectors import PyramidOptions
from kubedet_trainer.models.options.task import Task
from kubedet_trainer.structures import Images

_FIRST_STRIDE = 4
"""Stride of the backbone's first stage; each further one doubles it."""


class PyramidDetector(Detector):
    """A ResNet and a feature pyramid on it."""

    def __init__(self, task: Task, *, pyramid: PyramidOptions) -> None:
        super().__init__(task)
        self.backbone = ResNet(pyramid.backbone)
        self.neck = Fpn(pyramid.neck, in_channels=self.backbone.out_channels)
        self.strides = [
            _FIRST_STRIDE * 2 ** (self.neck.start_stage + level) for level in range(self.neck.num_levels)
        ]

    def extract(self, images: Images) -> list[Tensor]:
        """The feature pyramid of `images`."""
        features: list[Tensor] = self.neck(self.backbone(self.normalised(images)))
        return features
