"""Detectors that look at regions: a proposal network alone, Fast and Faster R-CNN, with masks or without."""

from __future__ import annotations

import torch
from torch import Tensor

from kubedet_trainer.models import pooling, roi
from kubedet_trainer.models.box_head import BoxHead
from kubedet_trainer.models.mask_head import MaskHead, add_masks
from kubedet_trainer.models.options.detectors import MaskOptions, PyramidOptions, RegionOptions
from kubedet_trainer.models.options.task import Task
from kubedet_trainer.models.options.two_stage import RpnHeadOptions
from kubedet_trainer.models.pooling import Cells
from kubedet_trainer.models.pyramid import PyramidDetector
from kubedet_trainer.models.rpn import RpnHead
from kubedet_trainer.structures import Detections, Images, Proposals, Targets

_ROI_STAGES = 4
"""Regions are pooled from the levels that stand on a stage of the backbone, not from subsampled ones."""


class Rpn(PyramidDetector):
    """A region proposal network whose proposals are its detections, all of class 1."""

    def __init__(self, task: Task, *, pyramid: PyramidOptions, rpn_head: RpnHeadOptions) -> None:
        super().__init__(task, pyramid=pyramid)
        self.rpn_head = RpnHead(rpn_head, in_channels=self.neck.channels, strides=self.strides)

    def forward(self, images: Images, targets: Targets, generator: torch.Generator) -> dict[str, Tensor]:
        """The losses by name, scalars; `generator`, on the images' device, draws the samples."""
        features = self.extract(images)
        output = self.rpn_head(features)
        return self.rpn_head.losses(output, pooling.tabulate(features), images, targets, generator)

    @torch.no_grad()
    def detect(self, images: Images, scale_factors: Tensor) -> list[Detections]:
        """The proposals of each image, in pixels before it was scaled by (B, 4) `scale_factors`."""
        proposals = self.rpn_head.propose(self.rpn_head(self.extract(images)), images)
        boxes = proposals.boxes / scale_factors[:, None]
        found = []
        for image_boxes, scores, valid in zip(boxes, proposals.scores, proposals.valid, strict=True):
            labels = torch.ones_like(scores, dtype=torch.int64)
            found.append(Detections(boxes=image_boxes[valid], scores=scores[valid], labels=labels[valid]))
        return found


class TwoStageDetector(PyramidDetector):
    """Proposals, made or given, and what a subclass makes of them."""

    def __init__(self, task: Task, *, pyramid: PyramidOptions, rpn_head: RpnHeadOptions | None) -> None:
        """Without `rpn_head` images come with proposals."""
        super().__init__(task, pyramid=pyramid)
        self.rpn_head: RpnHead | None = None
        if rpn_head is not None:
            self.rpn_head = RpnHead(rpn_head, in_channels=self.neck.channels, strides=self.strides)
        self.roi_strides = self.strides[: _ROI_STAGES - self.neck.start_stage]

    def forward(self, images: Images, targets: Targets, generator: torch.Generator) -> dict[str, Tensor]:
        """The losses of all stages by name, scalars; `generator` is on the images' device."""
        features = self.extract(images)
        cells = pooling.tabulate(features, torch.float32)
        if self.rpn_head is None:
            return self.roi_losses(cells, given_proposals(images), images, targets, generator)
        output = self.rpn_head(features)
        losses = self.rpn_head.losses(output, cells, images, targets, generator)
        proposals = self.rpn_head.propose(output, images)
        return losses | self.roi_losses(cells, proposals, images, targets, generator)

    @torch.no_grad()
    def detect(self, images: Images, scale_factors: Tensor) -> list[Detections]:
        """The detections of each image, in pixels before it was scaled by (B, 4) `scale_factors`."""
        features = self.extract(images)
        if self.rpn_head is None:
            proposals = given_proposals(images)
        else:
            proposals = self.rpn_head.propose(self.rpn_head(features), images)
        cells = pooling.tabulate(features, torch.float32)
        return self.roi_detect(cells, proposals, images, scale_factors)

    def roi_losses(
        self,
        cells: Cells,
        proposals: Proposals,
        images: Images,
        targets: Targets,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """The losses of what follows the proposals."""
        raise NotImplementedError

    def roi_detect(
        self, cells: Cells, proposals: Proposals, images: Images, scale_factors: Tensor
    ) -> list[Detections]:
        """What follows the proposals when detecting."""
        raise NotImplementedError


def given_proposals(images: Images) -> Proposals:
    """The proposals that came with `images`."""
    assert images.proposals is not None  # the recipe has data.num_proposals
    return images.proposals


class RoiDetector(TwoStageDetector):
    """Regions classified, refined and outlined once (Girshick, 2015; Ren et al., 2015; He et al., 2017)."""

    def __init__(
        self,
        task: Task,
        *,
        pyramid: PyramidOptions,
        regions: RegionOptions,
        rpn_head: RpnHeadOptions | None = None,
        masks: MaskOptions | None = None,
    ) -> None:
        """Without `rpn_head` the proposals come with the images."""
        super().__init__(task, pyramid=pyramid, rpn_head=rpn_head)
        channels, strides, num_classes = self.neck.channels, self.roi_strides, task.num_classes
        self.bbox_roi_extractor = roi.build_roi_extractor(regions.box_roi, channels=channels, strides=strides)
        self.bbox_head = BoxHead(
            regions.box_head,
            in_channels=channels,
            num_classes=num_classes,
            roi_size=regions.box_roi.size,
        )
        self.mask_head: MaskHead | None = None
        if masks is not None:
            self.mask_roi_extractor = roi.build_roi_extractor(
                masks.mask_roi, channels=channels, strides=strides
            )
            self.mask_head = MaskHead(masks.mask_head, in_channels=channels, num_classes=num_classes)

    def roi_losses(
        self,
        cells: Cells,
        proposals: Proposals,
        images: Images,
        targets: Targets,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """The losses of what follows the proposals."""
        regions = self.bbox_head.region_sampler(proposals, targets, generator)
        looked_at = [(self.bbox_roi_extractor, regions.boxes)]
        if self.mask_head is not None:
            positives = regions.positives(self.bbox_head.region_sampler.max_positives)
            looked_at.append((self.mask_roi_extractor, positives.boxes))
        pooled, *pooled_for_masks = roi.extract(cells, looked_at)
        losses = self.bbox_head.losses(self.bbox_head(pooled, regions.boxes), regions)
        if self.mask_head is not None:
            assert targets.masks is not None  # the recipe has data.masks
            losses |= self.mask_head.losses(pooled_for_masks[0], positives, targets.masks)
        return losses

    def roi_detect(
        self, cells: Cells, proposals: Proposals, images: Images, scale_factors: Tensor
    ) -> list[Detections]:
        """What follows the proposals when detecting."""
        prediction = self.bbox_head(self.bbox_roi_extractor(cells, proposals.boxes), proposals.boxes)
        found = self.bbox_head.detect(prediction, proposals, images, scale_factors)
        if self.mask_head is None:
            return found
        return add_masks(found, cells, scale_factors, [(self.mask_roi_extractor, self.mask_head)])
