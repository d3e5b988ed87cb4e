"""A cascade: every stage starts where the one before ended, and all have a say in the end."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import golden_files
import trainer_builders
from kubedet_trainer import config
from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.models.box_head import BoxHead, BoxPrediction
from kubedet_trainer.models.cascade import CascadeDetector, hand_on
from kubedet_trainer.models.pooling import tabulate
from kubedet_trainer.models.regions import RegionSamples
from kubedet_trainer.structures import Detections, Images, Proposals

STDS = [(0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067)]


def _silence(layer: nn.Linear | nn.Conv2d, *, bias: list[float] | float) -> None:
    """Let `layer` give `bias` whatever it sees."""
    nn.init.zeros_(layer.weight)
    with torch.no_grad():
        own = layer.get_parameter("bias")
        own.copy_(torch.tensor(bias).expand_as(own))


def _box_heads(detector: CascadeDetector) -> list[BoxHead]:
    heads = [head for head in detector.bbox_head if isinstance(head, BoxHead)]
    assert len(heads) == 3
    return heads


def _one_proposal() -> Proposals:
    box = torch.tensor([[[20.0, 20.0, 59.0, 59.0]]])
    return Proposals(boxes=box, scores=torch.ones(1, 1), valid=torch.ones(1, 1, dtype=torch.bool))


def _detect(detector: CascadeDetector, proposals: Proposals) -> Detections:
    images = trainer_builders.make_images()
    first = Images(pixels=images.pixels[:1], sizes=images.sizes[:1])
    with torch.no_grad():
        cells = tabulate(detector.extract(first))
        (found,) = detector.roi_detect(cells, proposals, first, torch.ones(1, 4))
    return found


def test_boxes_handed_on_equal_the_goldens_without_the_ground_truths() -> None:
    golden = golden_files.read_unit("cascade_refine")
    rois = torch.tensor(golden["rois"])
    counts = [int((rois[:, 0] == image).sum()) for image in (0, 1)]
    boxes = nn.utils.rnn.pad_sequence(list(torch.split(rois[:, 1:], counts)), batch_first=True)
    deltas = nn.utils.rnn.pad_sequence(
        list(torch.split(torch.tensor(golden["deltas"]), counts)), batch_first=True
    )
    used = torch.arange(boxes.shape[1]) < torch.tensor(counts)[:, None]
    from_gt = torch.zeros_like(used)
    for image, flags in enumerate(golden["pos_is_gt"]):
        from_gt[image, : len(flags)] = torch.tensor(flags, dtype=torch.bool)
    regions = RegionSamples(
        **dict.fromkeys(("labels", "gt_slots", "gt_boxes", "positive"), used),
        boxes=boxes,
        used=used,
        from_gt=from_gt,
    )
    head, *_ = _box_heads(trainer_builders.make_one(CascadeDetector, "cascade_rcnn"))
    images = Images(pixels=torch.zeros(2, 3, 1, 1), sizes=torch.tensor([golden["img_shape"]] * 2))

    moved = head.move(boxes, BoxPrediction(logits=deltas, deltas=deltas[:, :, None]), images)
    handed_on = hand_on(moved.squeeze(2), regions)

    for image, refined in enumerate(golden["refined"]):
        found = handed_on.boxes[image][handed_on.valid[image]]
        torch.testing.assert_close(found, torch.tensor(refined), rtol=1e-5, atol=1e-4)


def test_stages_demand_more_and_more() -> None:
    heads = _box_heads(trainer_builders.make_one(CascadeDetector, "cascade_rcnn"))

    assert [head.region_sampler.assigner.positive_iou for head in heads] == [0.5, 0.6, 0.7]
    assert [head.options.target_stds for head in heads] == STDS


def test_losses_of_each_stage_carry_its_weight() -> None:
    detector = trainer_builders.make_one(CascadeDetector, "cascade_mask_rcnn").train()
    trainer_builders.sample_by(detector)
    images = trainer_builders.make_images()
    targets = trainer_builders.make_targets([trainer_builders.TWO_OBJECTS, []])

    before = detector(images, targets, torch.Generator())
    detector.loss_weights = (2.0, 0.5, 0.0)
    after = detector(images, targets, torch.Generator())

    terms = ("loss_cls", "loss_reg", "loss_mask")
    assert set(before) == {"loss_rpn_cls", "loss_rpn_reg"} | {f"s{i}.{t}" for i in range(3) for t in terms}
    for name in terms:
        assert before[f"s0.{name}"] > 0
        torch.testing.assert_close(after[f"s0.{name}"], 2 * before[f"s0.{name}"])
        torch.testing.assert_close(after[f"s1.{name}"], before[f"s1.{name}"])
        assert after[f"s2.{name}"] == 0


def test_each_stage_starts_from_the_boxes_of_the_one_before() -> None:
    detector = trainer_builders.make_one(CascadeDetector, "cascade_rcnn").eval()
    for head in _box_heads(detector):
        _silence(head.fc_cls, bias=[0.0, 5.0, 0.0, 0.0])
        _silence(head.fc_reg, bias=[1.0, -1.0, 0.0, 0.0])

    found = _detect(detector, _one_proposal())

    shift = 40 * sum(stds[0] for stds in STDS)
    expected = torch.tensor([[20.0, 20.0, 59.0, 59.0]]) + torch.tensor([shift, -shift, shift, -shift])
    torch.testing.assert_close(found.boxes[:1], expected)


def test_logits_are_averaged_before_the_softmax_and_masks_after_the_sigmoid() -> None:
    detector = trainer_builders.make_one(CascadeDetector, "cascade_mask_rcnn").eval()
    logits = [[0.0, 6.0, 0.0, 0.0], [0.0, 0.0, 3.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
    outlines = [-3.0, 0.0, 1.0]
    for head, bias in zip(_box_heads(detector), logits, strict=True):
        _silence(head.fc_cls, bias=bias)
    for stage, outline in enumerate(outlines):
        layer = detector.get_submodule(f"mask_head.{stage}.conv_logits")
        assert isinstance(layer, nn.Conv2d)
        _silence(layer, bias=outline)

    found = _detect(detector, _one_proposal())

    scores = torch.tensor(logits).mean(dim=0).softmax(dim=0)
    torch.testing.assert_close(found.scores, scores[1:].sort(descending=True).values)
    probability = torch.tensor(outlines).sigmoid().mean()
    assert found.masks is not None
    torch.testing.assert_close(found.masks, probability.expand_as(found.masks))


def test_refinement_of_each_class_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"model\.box_head\.class_agnostic: got False"):
        config.apply_overrides(
            trainer_builders.SMALL["cascade_rcnn"], {"model.box_head.class_agnostic": "false"}
        )
