"""The box head in the zoo's two forms, and deltas that all classes share."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kubedet_trainer.models.box_head import BoxHead
from kubedet_trainer.models.options.two_stage import BoxHeadOptions
from kubedet_trainer.models.regions import RegionSamples
from kubedet_trainer.structures import Images, Proposals


def _head(**options: Any) -> BoxHead:
    torch.manual_seed(0)
    small = BoxHeadOptions(fc_channels=8, norm_groups=2, **options)
    return BoxHead(small, in_channels=4, num_classes=3, roi_size=2)


def _regions(*, labels: list[int]) -> RegionSamples:
    boxes = torch.tensor([[[0.0, 0, 9, 9], [5, 5, 14, 14]]])
    positive = torch.tensor([labels]) > 0
    return RegionSamples(
        boxes=boxes,
        labels=torch.tensor([labels]),
        gt_slots=torch.zeros(1, 2, dtype=torch.int64),
        gt_boxes=boxes + 2,
        positive=positive,
        used=torch.ones_like(positive),
        from_gt=torch.zeros_like(positive),
    )


def test_head_of_convolutions_has_the_published_names_and_no_bias_beside_normalisation() -> None:
    head = _head(num_convs=2, num_fcs=1, norm="gn")

    assert {name: tuple(value.shape) for name, value in head.state_dict().items()} == {
        **{f"shared_convs.{index}.conv.weight": (4, 4, 3, 3) for index in range(2)},
        **{f"shared_convs.{index}.gn.{kind}": (4,) for index in range(2) for kind in ("weight", "bias")},
        "shared_fcs.0.weight": (8, 16),
        "shared_fcs.0.bias": (8,),
        "fc_cls.weight": (3, 8),
        "fc_cls.bias": (3,),
        "fc_reg.weight": (12, 8),
        "fc_reg.bias": (12,),
    }


@pytest.mark.parametrize(("class_agnostic", "same"), [(True, True), (False, False)])
def test_classes_share_the_refinement_only_if_asked_to(class_agnostic: bool, same: bool) -> None:
    head = _head(class_agnostic=class_agnostic)
    torch.nn.init.normal_(head.fc_reg.bias)
    pooled = torch.randn(2, 4, 2, 2)

    losses = []
    for labels in ([1, 0], [2, 0]):
        regions = _regions(labels=labels)
        losses.append(head.losses(head(pooled, regions.boxes), regions)["loss_reg"])

    assert (losses[0] == losses[1]) == same


def test_refinement_shared_by_all_classes_gives_each_the_same_box() -> None:
    head = _head(class_agnostic=True, score_threshold=0.0)
    torch.nn.init.normal_(head.fc_reg.bias)
    boxes = torch.tensor([[[2.0, 2.0, 9.0, 9.0]]])
    proposals = Proposals(boxes=boxes, scores=torch.ones(1, 1), valid=torch.ones(1, 1).bool())
    images = Images(pixels=torch.zeros(1, 3, 1, 1), sizes=torch.tensor([[100, 100]]))

    (found,) = head.detect(head(torch.randn(1, 4, 2, 2), boxes), proposals, images, torch.ones(1, 4))

    assert sorted(found.labels.tolist()) == [1, 2]
    assert found.boxes[0].tolist() == found.boxes[1].tolist() != boxes[0, 0].tolist()
