"""What detectors that look at regions compute, in the form of the goldens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import trainer_builders
from golden.records import Found, GoldenBatch, Meta, Regions
from kubedet_trainer.data import run_lengths
from kubedet_trainer.models import pooling
from kubedet_trainer.models.cascade import CascadeDetector
from kubedet_trainer.models.rpn import RpnHead, RpnOutput
from kubedet_trainer.models.two_stage import RoiDetector, Rpn
from kubedet_trainer.structures import Images, Masks, Proposals, Targets

RegionDetector = Rpn | RoiDetector | CascadeDetector


def features(model: RegionDetector, x: Tensor) -> dict[str, Sequence[Tensor]]:
    """The levels of backbone and pyramid, and the raw outputs of the proposal head."""
    stages = model.backbone(x)
    levels = model.neck(stages)
    found = {"backbone": stages, "neck": levels}
    if model.rpn_head is not None:
        maps = [level.unflatten(1, (-1, 5)) for level in model.rpn_head(levels).maps]
        found["head_cls"] = [level[:, :, 0] for level in maps]
        found["head_reg"] = [level[:, :, 1:].flatten(1, 2) for level in maps]
    return found


def proposals(model: RegionDetector, x: Tensor, meta: Meta) -> Tensor:
    """(n, 5) boxes in resized pixels and scores, best first."""
    assert model.rpn_head is not None
    images = _images(x, [meta])
    found = model.rpn_head.propose(model.rpn_head(model.extract(images)), images)
    boxes = torch.cat([found.boxes, found.scores[..., None]], dim=-1)[0]
    return boxes[found.valid[0]]


def fixed_regions(model: RoiDetector | CascadeDetector, x: Tensor, rois: Tensor) -> Regions:
    """Every stage sees what the first stage's extractor pools from `rois` (n, image and corners)."""
    boxes = rois[None, :, 1:]
    cells = pooling.tabulate(model.neck(model.backbone(x)))
    pooled = _stages(model.bbox_roi_extractor)[0](cells, boxes)
    predictions = [head(pooled, boxes) for head in _stages(model.bbox_head)]
    masks = []
    if model.mask_head is not None:
        regions = _stages(model.mask_roi_extractor)[0](cells, boxes)
        masks = [head.conv_logits(head.upsampled(regions)) for head in _stages(model.mask_head)]
    return Regions(
        features=pooled,
        classes=[prediction.logits[0] for prediction in predictions],
        deltas=[prediction.deltas[0].flatten(1) for prediction in predictions],
        masks=masks,
    )


def detect(model: RegionDetector, x: Tensor, meta: Meta, proposals: Tensor | None = None) -> Found:
    """The detections of one image, on `proposals` (n, 5) instead of its own where given."""
    images = _images(x, [meta])
    scale_factors = torch.as_tensor(meta["scale_factor"], dtype=torch.float32).expand(1, 4)
    if proposals is None or isinstance(model, Rpn):
        (found,) = model.detect(images, scale_factors)
    else:
        cells = pooling.tabulate(model.extract(images))
        (found,) = model.roi_detect(cells, _as_proposals([proposals]), images, scale_factors)
    boxes = torch.cat([found.boxes, found.scores[:, None]], dim=1)
    result = Found(boxes=boxes, labels=found.labels - 1)
    if found.masks is None:
        return result
    height, width = meta["ori_shape"][:2]
    counts = run_lengths.paste(found.masks.numpy(), boxes=found.boxes.numpy(), size=(height, width))
    return replace(result, masks=found.masks, areas=run_lengths.areas(list(counts)).tolist())


def losses(
    model: RegionDetector, batch: GoldenBatch, proposals: Sequence[Tensor] | None = None
) -> dict[str, list[Tensor]]:
    """Those of the proposal head by level, as the 2019 code logged them, and one value of each other."""
    images = _images(batch["img"], batch["metas"])
    targets = _targets(batch)
    generator = torch.Generator()
    levels = model.extract(images)
    cells = pooling.tabulate(levels)
    result: dict[str, list[Tensor]] = {}
    given = batch.get("proposals_in") if proposals is None else proposals
    if model.rpn_head is not None:
        output = model.rpn_head(levels)
        result = _rpn_losses_by_level(model.rpn_head, output, cells, images, targets, generator)
        found = model.rpn_head.propose(output, images)
    if not isinstance(model, Rpn):
        regions = found if given is None else _as_proposals(given)
        region_losses = model.roi_losses(cells, regions, images, targets, generator)
        result |= {name: [value] for name, value in region_losses.items()}
    return result


def _stages(module: nn.Module) -> list[Any]:
    """A cascade has a list of each part of its stages, other detectors one part."""
    return list(module) if isinstance(module, nn.ModuleList) else [module]


def _images(pixels: Tensor, metas: Sequence[Meta]) -> Images:
    return Images(pixels=pixels, sizes=torch.tensor([meta["img_shape"][:2] for meta in metas]))


def _as_proposals(boxes: Sequence[Tensor]) -> Proposals:
    """Boxes of each image (n, 4 or 5 with scores), padded to the most that an image has."""
    slots = max(len(image) for image in boxes)
    padded = torch.zeros(len(boxes), slots, 4)
    for index, image in enumerate(boxes):
        padded[index, : len(image)] = image[:, :4]
    counts = torch.tensor([len(image) for image in boxes])
    valid = torch.arange(slots) < counts[:, None]
    return Proposals(boxes=padded, scores=torch.where(valid, 0.5, -1.0), valid=valid)


def _targets(batch: GoldenBatch) -> Targets:
    boxes = torch.stack(batch["gt_bboxes"])
    targets = Targets(
        boxes=boxes,
        labels=torch.ones(boxes.shape[:2], dtype=torch.int64),
        valid=torch.ones(boxes.shape[:2], dtype=torch.bool),
    )
    if "gt_labels" in batch:
        targets = replace(targets, labels=torch.stack(batch["gt_labels"]))
    if "gt_masks" in batch:
        targets = replace(targets, masks=_masks(batch["gt_masks"], size=batch["img"].shape[2:]))
    return targets


def _masks(masks: Sequence[Tensor], *, size: Sequence[int]) -> Masks:
    """A loader's masks of (G, h, w) maps of each image, padded to the `size` of the batch."""
    padded = np.zeros((len(masks), len(masks[0]), *size), np.uint8)
    for image, maps in zip(padded, masks, strict=True):
        image[:, : maps.shape[1], : maps.shape[2]] = maps.numpy()
    return trainer_builders.make_masks(padded)


def _rpn_losses_by_level(
    head: RpnHead,
    output: RpnOutput,
    cells: pooling.Cells,
    images: Images,
    targets: Targets,
    generator: torch.Generator,
) -> dict[str, list[Tensor]]:
    """The goldens have the losses of each level; a trained model adds them up."""
    each = head.sample_losses(output, cells, images, targets, generator)
    counts = torch.tensor([level[0].numel() // 5 for level in output.maps])
    level_of_sample = torch.bucketize(each.samples.indices, counts.cumsum(0), right=True)
    terms = {"loss_rpn_cls": each.classification, "loss_rpn_reg": each.regression}
    return {
        name: [(values * (level_of_sample == level)).sum() / each.divisor for level in range(len(counts))]
        for name, values in terms.items()
    }
