"""Cascade R-CNN: each stage trains on what the one before made of its regions (`docs/zoo.md`, 6)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from kubedet_trainer.models import roi
from kubedet_trainer.models.box_head import BoxHead, BoxPrediction
from kubedet_trainer.models.mask_head import UPSAMPLING, MaskHead, add_masks
from kubedet_trainer.models.mask_targets import mask_targets
from kubedet_trainer.models.options.detectors import MaskOptions, PyramidOptions, RegionOptions
from kubedet_trainer.models.options.task import Task
from kubedet_trainer.models.options.two_stage import BoxHeadOptions, CascadeOptions, RpnHeadOptions
from kubedet_trainer.models.pooling import Cells
from kubedet_trainer.models.regions import RegionSamples
from kubedet_trainer.models.two_stage import TwoStageDetector
from kubedet_trainer.structures import Detections, Images, Proposals, Targets


class CascadeDetector(TwoStageDetector):
    """Box heads of rising demands (Cai and Vasconcelos, 2017), each with a mask head of its own if asked for.

    All classes share the refinement of a box, so that a stage need not know the class to hand it on.
    """

    def __init__(
        self,
        task: Task,
        *,
        pyramid: PyramidOptions,
        regions: RegionOptions,
        rpn_head: RpnHeadOptions,
        cascade: CascadeOptions,
        masks: MaskOptions | None = None,
    ) -> None:
        """`regions` has the box head of the first stage; `cascade` says how the others differ."""
        super().__init__(task, pyramid=pyramid, rpn_head=rpn_head)
        channels, strides = self.neck.channels, self.roi_strides
        stages = [regions.box_head, *_further_stages(regions.box_head, cascade)]
        self.loss_weights = (1.0, *cascade.loss_weights)
        self.bbox_roi_extractor = nn.ModuleList(
            roi.build_roi_extractor(regions.box_roi, channels=channels, strides=strides) for _ in stages
        )
        self.bbox_head = nn.ModuleList(
            BoxHead(stage, in_channels=channels, num_classes=task.num_classes, roi_size=regions.box_roi.size)
            for stage in stages
        )
        self.mask_head: nn.ModuleList | None = None
        if masks is not None:
            self.mask_roi_extractor = nn.ModuleList(
                roi.build_roi_extractor(masks.mask_roi, channels=channels, strides=strides) for _ in stages
            )
            self.mask_head = nn.ModuleList(
                MaskHead(masks.mask_head, in_channels=channels, num_classes=task.num_classes) for _ in stages
            )

    def roi_losses(
        self,
        cells: Cells,
        proposals: Proposals,
        images: Images,
        targets: Targets,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """The weighted losses of every stage, named ``s0.loss_cls`` and so on."""
        losses: dict[str, Tensor] = {}
        stages: list[RegionSamples] = []
        for stage, (extract, head) in enumerate(self._box_stages()):
            regions = head.region_sampler(proposals, targets, generator)
            prediction = head(extract(cells, regions.boxes), regions.boxes)
            losses |= self._named(stage, head.losses(prediction, regions))
            stages.append(regions.positives(head.region_sampler.max_positives))
            if stage < len(self.bbox_head) - 1:
                proposals = hand_on(head.move(regions.boxes, prediction, images).squeeze(2), regions)
        if self.mask_head is not None:
            losses |= self._mask_losses(cells, stages, targets)
        return dict(sorted(losses.items(), key=lambda term: term[0].partition(".")[0]))

    def _mask_losses(
        self, cells: Cells, stages: Sequence[RegionSamples], targets: Targets
    ) -> dict[str, Tensor]:
        """``loss_mask`` of every stage on its positive regions; all are pooled and cut out together."""
        assert targets.masks is not None  # the recipe has data.masks
        slots = torch.cat([regions.gt_slots for regions in stages], dim=1)
        boxes = torch.cat([regions.boxes for regions in stages], dim=1)
        extractors, heads = zip(*self._mask_stages(), strict=True)
        pooled = roi.extract(cells, [(pool, own.boxes) for pool, own in zip(extractors, stages, strict=True)])
        maps = mask_targets(targets.masks, slots, boxes, size=UPSAMPLING * pooled[0].shape[-1])
        wanted = torch.split(maps, [own.positive.shape[1] for own in stages], dim=1)
        losses: dict[str, Tensor] = {}
        for stage, (head, *own) in enumerate(zip(heads, pooled, stages, wanted, strict=True)):
            losses |= self._named(stage, head.losses_of_maps(*own))
        return losses

    def _named(self, stage: int, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        weight = self.loss_weights[stage]
        return {f"s{stage}.{name}": loss if weight == 1 else loss * weight for name, loss in terms.items()}

    def roi_detect(
        self, cells: Cells, proposals: Proposals, images: Images, scale_factors: Tensor
    ) -> list[Detections]:
        """Boxes of the last stage, classified by the mean logits of all and outlined by their mean masks."""
        predictions: list[BoxPrediction] = []
        moved = proposals
        for extract, head in self._box_stages():
            proposals = moved
            predictions.append(head(extract(cells, proposals.boxes), proposals.boxes))
            boxes = head.move(proposals.boxes, predictions[-1], images).squeeze(2)
            moved = replace(proposals, boxes=boxes)
        logits = torch.stack([prediction.logits for prediction in predictions]).mean(dim=0)
        judged = replace(predictions[-1], logits=logits)
        found = head.detect(judged, proposals, images, scale_factors)
        if self.mask_head is None:
            return found
        return add_masks(found, cells, scale_factors, self._mask_stages())

    def _box_stages(self) -> list[tuple[nn.Module, BoxHead]]:
        heads = cast(Iterable[BoxHead], self.bbox_head)
        return list(zip(self.bbox_roi_extractor, heads, strict=True))

    def _mask_stages(self) -> list[tuple[nn.Module, MaskHead]]:
        heads = cast(Iterable[MaskHead], self.mask_head)
        return list(zip(self.mask_roi_extractor, heads, strict=True))


def hand_on(boxes: Tensor, regions: RegionSamples) -> Proposals:
    """The proposals of the next stage: the refined (B, S, 4) `boxes` of `regions`, but for ground truths.

    The next stage adds those again, as they are; here their slots become empty.
    """
    valid = regions.used & ~regions.from_gt
    return Proposals(boxes=boxes, scores=valid.float() - 1, valid=valid)


def _further_stages(first: BoxHeadOptions, cascade: CascadeOptions) -> list[BoxHeadOptions]:
    """The options of each box head after the first."""
    return [
        replace(first, positive_iou=positive_iou, target_stds=(centre, centre, side, side))
        for positive_iou, centre, side in zip(
            cascade.positive_ious, cascade.centre_stds, cascade.side_stds, strict=True
        )
    ]
