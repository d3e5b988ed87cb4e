"""The golden checker's view of detectors that look at regions."""

from __future__ import annotations

import torch

from kubedet_trainer.structures import Images, Proposals, Targets


def _images(pixels, metas):
    sizes = torch.tensor([meta["img_shape"][:2] for meta in metas], device=pixels.device)
    return Images(pixels=pixels, sizes=sizes)


def _as_proposals(boxes):
    """(n, 5) boxes with scores of each image, padded to the most that an image has."""
    slots = max(len(image) for image in boxes)
    padded = torch.zeros(len(boxes), slots, 5)
    for index, image in enumerate(boxes):
        padded[index, : len(image)] = image
    counts = torch.tensor([len(image) for image in boxes])
    valid = torch.arange(slots) < counts[:, None]
    return Proposals(boxes=padded[..., :4], scores=padded[..., 4], valid=valid)


def features(model, x):
    stages = model.backbone(x)
    levels = model.neck(stages)
    output = model.rpn_head(levels)
    return {"backbone": stages, "neck": levels, "head_cls": output.objectness, "head_reg": output.deltas}


def proposals(model, x, meta):
    images = _images(x, [meta])
    found = model.rpn_head.propose(model.rpn_head(model.extract(images)), images)
    return torch.cat([found.boxes, found.scores[..., None]], dim=-1)[0][found.valid[0]]


def fixed_rois(model, x, rois):
    if not hasattr(model, "bbox_head"):
        return {}
    pooled = model.bbox_head.roi_align(model.neck(model.backbone(x)), rois[None, :, 1:])
    logits, deltas = model.bbox_head(pooled)
    return {"roi_feat": pooled, "cls": [logits], "reg": [deltas]}


def detect(model, x, meta, proposals=None):
    images = _images(x, [meta])
    scale_factors = torch.full((1, 4), meta["scale_factor"], dtype=torch.float32)
    if proposals is None:
        (found,) = model.detect(images, scale_factors)
    else:
        (found,) = model.bbox_head.detect(
            model.extract(images), _as_proposals([proposals]), images, scale_factors
        )
    return {"boxes": torch.cat([found.boxes, found.scores[:, None]], dim=1), "labels": found.labels - 1}


def losses(model, batch, proposals=None):
    images = _images(batch["img"], batch["metas"])
    targets = _targets(batch["gt_bboxes"], batch.get("gt_labels"))
    generator = torch.Generator()
    levels = model.extract(images)
    output = model.rpn_head(levels)
    result = _rpn_losses_by_level(model.rpn_head, output, images, targets, generator)
    if hasattr(model, "bbox_head"):
        found = model.rpn_head.propose(output, images) if proposals is None else _as_proposals(proposals)
        regions = model.bbox_head.region_sampler(found, targets, generator)
        result |= model.bbox_head.losses(levels, regions)
    return result


def _targets(boxes, labels):
    stacked = torch.stack(boxes)
    return Targets(
        boxes=stacked,
        labels=torch.ones(stacked.shape[:2], dtype=torch.int64) if labels is None else torch.stack(labels),
        valid=torch.ones(stacked.shape[:2], dtype=torch.bool),
    )


def _rpn_losses_by_level(head, output, images, targets, generator):
    """The checker wants the losses of each level apart; a trained model adds them up."""
    each = head.sample_losses(output, images, targets, generator)
    counts = torch.tensor([level[0].numel() for level in output.objectness])
    level_of_sample = torch.bucketize(each.samples.indices, counts.cumsum(0), right=True)
    terms = {"loss_rpn_cls": each.classification, "loss_rpn_reg": each.regression}
    return {
        name: [(values * (level_of_sample == level)).sum() / each.divisor for level in range(len(counts))]
        for name, values in terms.items()
    }
