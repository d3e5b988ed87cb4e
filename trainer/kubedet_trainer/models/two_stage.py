"""Detectors that propose regions first: a proposal network alone, and Faster R-CNN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kubedet_trainer.models.backbones.resnet import ResNet
from kubedet_trainer.models.box_head import BoxHead
from kubedet_trainer.models.fpn import Fpn
from kubedet_trainer.models.rpn import RpnHead
from kubedet_trainer.structures import Detections, Images, Targets

_FIRST_STRIDE = 4
"""Stride of the backbone's first stage; each further one doubles it."""

_ROI_STAGES = 4
"""Regions are pooled from the levels that stand on a stage of the backbone, not from subsampled ones."""


class Rpn(nn.Module):
    """A region proposal network whose proposals are its detections, all of class 1."""

    def __init__(
        self, *, backbone: Mapping[str, Any], neck: Mapping[str, Any], rpn_head: Mapping[str, Any]
    ) -> None:
        """Each part is given by its own keyword arguments."""
        super().__init__()
        self.backbone = ResNet(**backbone)
        self.neck = Fpn(in_channels=self.backbone.out_channels, **neck)
        self.strides = [
            _FIRST_STRIDE * 2 ** (self.neck.start_stage + level) for level in range(self.neck.num_levels)
        ]
        self.rpn_head = RpnHead(in_channels=neck["channels"], strides=self.strides, **rpn_head)

    def forward(self, images: Images, targets: Targets, generator: torch.Generator) -> dict[str, Tensor]:
        """The losses by name, scalars; `generator`, on the images' device, draws the samples."""
        output = self.rpn_head(self.extract(images))
        return self.rpn_head.losses(output, images, targets, generator)

    @torch.no_grad()
    def detect(self, images: Images, scale_factors: Tensor) -> list[Detections]:
        """The proposals of each image, in pixels before it was scaled by (B,) `scale_factors`."""
        proposals = self.rpn_head.propose(self.rpn_head(self.extract(images)), images)
        boxes = proposals.boxes / scale_factors[:, None, None]
        found = []
        for image_boxes, scores, valid in zip(boxes, proposals.scores, proposals.valid, strict=True):
            labels = torch.ones_like(scores, dtype=torch.int64)
            found.append(Detections(boxes=image_boxes[valid], scores=scores[valid], labels=labels[valid]))
        return found

    def extract(self, images: Images) -> list[Tensor]:
        """The feature pyramid of `images`."""
        features: list[Tensor] = self.neck(self.backbone(images.pixels))
        return features


class FasterRcnn(Rpn):
    """Proposals, classified and refined by a second stage (Ren et al., 2015)."""

    def __init__(
        self,
        *,
        num_classes: int,
        backbone: Mapping[str, Any],
        neck: Mapping[str, Any],
        rpn_head: Mapping[str, Any],
        box_head: Mapping[str, Any],
    ) -> None:
        """For `num_classes` with the background; each part is given by its own keyword arguments."""
        super().__init__(backbone=backbone, neck=neck, rpn_head=rpn_head)
        self.bbox_head = BoxHead(
            in_channels=neck["channels"],
            num_classes=num_classes,
            strides=self.strides[: _ROI_STAGES - self.neck.start_stage],
            **box_head,
        )

    def forward(self, images: Images, targets: Targets, generator: torch.Generator) -> dict[str, Tensor]:
        """The losses of both stages by name, scalars."""
        features = self.extract(images)
        output = self.rpn_head(features)
        losses = self.rpn_head.losses(output, images, targets, generator)
        proposals = self.rpn_head.propose(output, images)
        regions = self.bbox_head.region_sampler(proposals, targets, generator)
        return losses | self.bbox_head.losses(features, regions)

    @torch.no_grad()
    def detect(self, images: Images, scale_factors: Tensor) -> list[Detections]:
        """The detections of each image, in pixels before it was scaled by (B,) `scale_factors`."""
        features = self.extract(images)
        proposals = self.rpn_head.propose(self.rpn_head(features), images)
        return self.bbox_head.detect(features, proposals, images, scale_factors)
