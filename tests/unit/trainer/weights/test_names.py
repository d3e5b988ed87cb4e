"""Names and class order of other times become those of early 2019."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kubedet_trainer.weights.names import early_names, is_second_version


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("module.backbone.conv1.weight", "backbone.conv1.weight"),
        ("bbox_head.cls_convs.3.weight", "bbox_head.cls_convs.3.weight"),
        ("bbox_head.cls_convs.3.conv.weight", "bbox_head.cls_convs.3.weight"),
        ("bbox_head.reg_convs.0.conv.bias", "bbox_head.reg_convs.0.bias"),
        ("backbone.layer3.5.conv2.conv_offset.weight", "backbone.layer3.5.conv2_offset.weight"),
        ("layer2.0.conv2.conv_offset.bias", "layer2.0.conv2_offset.bias"),
        ("neck.extra_layers.3.1.conv.weight", "backbone.extra.7.weight"),
        ("neck.l2_norm.weight", "backbone.l2_norm.weight"),
        ("neck.fpn_convs.3.conv.weight", "neck.fpn_convs.3.conv.weight"),
        ("mask_head.convs.0.conv.weight", "mask_head.convs.0.conv.weight"),
        ("roi_head.bbox_head.1.shared_fcs.0.weight", "bbox_head.1.shared_fcs.0.weight"),
    ],
)
def test_later_names_become_the_first_ones(theirs: str, ours: str) -> None:
    assert list(early_names({theirs: torch.zeros(1)}, meta={})) == [ours]


def test_name_that_a_model_has_itself_is_kept() -> None:
    own = "bbox_head.cls_convs.3.conv.weight"
    tensors = {own: torch.zeros(1), "bbox_head.reg_convs.0.conv.bias": torch.zeros(1)}

    assert list(early_names(tensors, meta={}, known={own})) == [own, "bbox_head.reg_convs.0.bias"]


def _second_version(early: dict[str, Tensor]) -> dict[str, Tensor]:
    """Two-stage weights of early 2019 with two classes, as version 2 has them."""
    later = {f"roi_head.{name}": value for name, value in early.items()}
    for name in ("bbox_head.0.fc_cls.weight", "bbox_head.0.fc_cls.bias"):
        later[f"roi_head.{name}"] = torch.cat([early[name][1:], early[name][:1]])
    for name, unused in (("bbox_head.0.fc_reg.weight", 4), ("mask_head.conv_logits.bias", 1)):
        later[f"roi_head.{name}"] = early[name][unused:]
    return later


def test_second_version_gets_its_background_first_and_its_unused_slots_back() -> None:
    early = {
        "bbox_head.0.fc_cls.weight": torch.randn(3, 5),
        "bbox_head.0.fc_cls.bias": torch.randn(3),
        "bbox_head.0.fc_reg.weight": torch.cat([torch.zeros(4, 5), torch.randn(8, 5)]),
        "bbox_head.1.fc_reg.bias": torch.randn(4),  # of all classes together
        "mask_head.conv_logits.bias": torch.cat([torch.zeros(1), torch.randn(2)]),
        "bbox_head.0.shared_fcs.0.bias": torch.randn(3),
    }

    later = _second_version(early)
    assert is_second_version(later, meta={})
    assert not is_second_version(early, meta={"mmdet_version": "0.6.0"})
    found = early_names(later, meta={})

    assert found.keys() == early.keys()
    assert all(torch.equal(found[name], value) for name, value in early.items())


def test_second_version_of_ssd_is_known_by_its_meta_and_rolled_anchor_by_anchor() -> None:
    anchors, classes = 4, 3
    scores = torch.arange(anchors * classes).float()
    later = {
        "bbox_head.cls_convs.0.0.bias": scores.view(anchors, classes).roll(-1, 1).flatten(),
        "bbox_head.reg_convs.0.0.bias": torch.zeros(anchors * 4),
    }

    found = early_names(later, meta={"mmdet_version": "2.14.0"})

    assert torch.equal(found["bbox_head.cls_convs.0.bias"], scores)


def test_first_version_and_retinanet_of_the_second_keep_their_values() -> None:
    tower = {
        "bbox_head.cls_convs.0.conv.bias": torch.randn(12),
        "bbox_head.reg_convs.0.conv.bias": torch.randn(12),
        "bbox_head.retina_cls.weight": torch.randn(6, 2),
    }
    softmax = {"bbox_head.fc_cls.bias": torch.randn(3)}

    assert torch.equal(
        early_names(tower, meta={"mmdet_version": "2.0.0"})["bbox_head.cls_convs.0.bias"],
        tower["bbox_head.cls_convs.0.conv.bias"],
    )
    found = early_names(softmax, meta={"mmdet_version": "1.0.0"})
    assert torch.equal(found["bbox_head.fc_cls.bias"], softmax["bbox_head.fc_cls.bias"])
