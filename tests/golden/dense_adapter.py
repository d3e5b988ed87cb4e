"""What detectors that look at all anchors at once compute, in the form of the goldens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from golden.records import Found, GoldenBatch, Meta
from kubedet_trainer.models.retinanet import RetinaNet
from kubedet_trainer.models.ssd import Ssd
from kubedet_trainer.structures import Images, Targets

DenseDetector = RetinaNet | Ssd


def _images(pixels: Tensor, metas: Sequence[Meta]) -> Images:
    return Images(pixels=pixels, sizes=torch.tensor([meta["img_shape"][:2] for meta in metas]))


def features(model: DenseDetector, x: Tensor) -> dict[str, Sequence[Tensor]]:
    """The levels of each part, and the raw outputs of the head."""
    stages = model.backbone(x)
    result = {"backbone": stages}
    if isinstance(model, RetinaNet):
        result["neck"] = stages = model.neck(stages)
        output = model.bbox_head(stages)
        by_level = output.sheet.levels
        return result | {"head_cls": by_level(output.logits), "head_reg": by_level(output.deltas)}
    output = model.bbox_head(stages)
    return result | {"head_cls": output.logits, "head_reg": output.deltas}


def detect(model: DenseDetector, x: Tensor, meta: Meta) -> Found:
    """The detections of one image."""
    scale_factors = torch.as_tensor(meta["scale_factor"], dtype=torch.float32).expand(1, 4)
    (found,) = model.detect(_images(x, [meta]), scale_factors)
    return Found(boxes=torch.cat([found.boxes, found.scores[:, None]], dim=1), labels=found.labels - 1)


def losses(model: DenseDetector, batch: GoldenBatch) -> dict[str, list[Tensor]]:
    """By level for a pyramid and by image for source maps, as the 2019 code logged them."""
    images = _images(batch["img"], batch["metas"])
    boxes = torch.stack(batch["gt_bboxes"])
    targets = Targets(
        boxes=boxes,
        labels=torch.stack(batch["gt_labels"]),
        valid=torch.ones(boxes.shape[:2], dtype=torch.bool),
    )
    if isinstance(model, RetinaNet):
        found = model.bbox_head(model.extract(images))
        each = model.bbox_head.anchor_losses(found, images, targets)
        return {name: [level.sum() for level in found.by_level(own.T)] for name, own in each.items()}
    by_image = model.bbox_head.image_losses(model.bbox_head(model.backbone(images.pixels)), targets)
    return {name: list(values) for name, values in by_image.items()}
