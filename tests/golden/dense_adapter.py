"""The golden checker's view of detectors that look at all anchors at once."""

from __future__ import annotations

import torch

from kubedet_trainer.structures import Images, Targets


def _images(pixels, metas):
    return Images(pixels=pixels, sizes=torch.tensor([meta["img_shape"][:2] for meta in metas]))


def features(model, x):
    stages = model.backbone(x)
    result = {"backbone": stages}
    if hasattr(model, "neck"):
        result["neck"] = stages = model.neck(stages)
    output = model.bbox_head(stages)
    return result | {"head_cls": output.logits, "head_reg": output.deltas}


def detect(model, x, meta, _proposals=None):
    scale_factors = torch.as_tensor(meta["scale_factor"], dtype=torch.float32).expand(1, 4)
    (found,) = model.detect(_images(x, [meta]), scale_factors)
    return {"boxes": torch.cat([found.boxes, found.scores[:, None]], dim=1), "labels": found.labels - 1}


def losses(model, batch, _proposals=None):
    """Lists by level for a pyramid and by image for source maps, as the 2019 code logged them."""
    images = _images(batch["img"], batch["metas"])
    boxes = torch.stack(batch["gt_bboxes"])
    targets = Targets(
        boxes=boxes,
        labels=torch.stack(batch["gt_labels"]),
        valid=torch.ones(boxes.shape[:2], dtype=torch.bool),
    )
    if hasattr(model, "neck"):
        return model.bbox_head.level_losses(model.bbox_head(model.extract(images)), images, targets)
    by_image = model.bbox_head.image_losses(model.bbox_head(model.backbone(images.pixels)), targets)
    return {name: list(values) for name, values in by_image.items()}
