"""A mask head trains on positive regions alone, and outlines each detection as its own class."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import trainer_builders
from kubedet_trainer.models.mask_head import MaskHead, add_masks
from kubedet_trainer.models.options.backbones import ConvNorm
from kubedet_trainer.models.options.two_stage import MaskHeadOptions
from kubedet_trainer.models.pooling import Cells, tabulate
from kubedet_trainer.models.regions import RegionSamples
from kubedet_trainer.structures import Detections, Masks

LABELS = torch.tensor([[2, 1, 0]])


def _head(*, norm: ConvNorm = "none", seed: int = 0) -> MaskHead:
    torch.manual_seed(seed)
    options = MaskHeadOptions(num_convs=2, channels=8, norm=norm, norm_groups=2)
    head = MaskHead(options, in_channels=8, num_classes=4)
    nn.init.normal_(head.get_parameter("conv_logits.bias"))
    return head


def _regions(*, positive: list[bool]) -> RegionSamples:
    boxes = torch.tensor([[[0.0, 0, 15, 15], [4, 4, 11, 11], [0, 0, 7, 7]]])
    flags = torch.tensor([positive])
    return RegionSamples(
        boxes=boxes,
        labels=torch.where(flags, LABELS, 0),
        gt_slots=torch.zeros(1, 3, dtype=torch.int64),
        gt_boxes=boxes[:, :1].expand(-1, 3, -1),
        positive=flags,
        used=torch.ones_like(flags),
        from_gt=torch.zeros_like(flags),
    )


def _left_half() -> Masks:
    """The mask of an object that covers the left half of 16 x 16 pixels."""
    maps = np.zeros((1, 1, 16, 16), np.uint8)
    maps[..., :8] = 1
    return trainer_builders.make_masks(maps)


def test_only_the_map_of_the_own_class_is_made() -> None:
    head, pooled = _head(), torch.randn(3, 8, 4, 4)

    own = head(pooled, torch.tensor([3, 0, 1]))

    every = head.conv_logits(head.upsampled(pooled))
    torch.testing.assert_close(own, torch.stack([every[0, 3], every[1, 0], every[2, 1]]))


def test_loss_is_the_mean_over_the_pixels_of_positive_regions() -> None:
    head, pooled = _head(), torch.randn(3, 8, 4, 4)

    loss = head.losses(pooled, _regions(positive=[True, True, False]), _left_half())["loss_mask"]

    logits = head(pooled[:2], LABELS[0, :2])
    wanted = torch.zeros(2, 8, 8)
    wanted[..., :4] = 1  # the objects' left half is that of both regions too
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(logits, wanted))


def test_loss_is_zero_without_positive_regions() -> None:
    loss = _head().losses(torch.randn(3, 8, 4, 4), _regions(positive=[False] * 3), _left_half())

    assert loss["loss_mask"].item() == 0


def test_group_normalisation_takes_the_place_of_the_bias_but_for_the_last_two_layers() -> None:
    names = set(_head(norm="gn").state_dict())

    layers = ("convs.0.conv.weight", "convs.0.gn.weight", "convs.0.gn.bias")
    assert names == {
        *layers,
        *(name.replace("0", "1") for name in layers),
        *(f"{layer}.{kind}" for layer in ("upsample", "conv_logits") for kind in ("weight", "bias")),
    }


class _Pool(nn.Module):
    """Stands for a RoI extractor: every region has the features of its image's corner and its own x1."""

    def forward(self, cells: Cells, boxes: torch.Tensor) -> torch.Tensor:
        assert boxes.shape[0] == 1
        pooled = torch.zeros(boxes.shape[1], 8, 2, 2)
        pooled[:, 0] = cells.table[0, 0, 0]
        pooled[:, 1] = boxes[0, :, 0, None, None]
        return pooled


def test_masks_are_pooled_from_the_own_image_at_the_resized_box_and_averaged_as_probabilities() -> None:
    heads = [_head(seed=seed) for seed in (0, 1)]
    features = [torch.tensor([5.0, 7.0])[:, None, None, None].expand(2, 1, 3, 3)]
    boxes = torch.tensor([[10.0, 0, 20, 20], [30, 0, 50, 20]])
    found = [
        Detections(boxes=boxes, scores=torch.tensor([0.9, 0.8]), labels=torch.tensor([1, 3])),
        Detections(boxes=boxes[:1], scores=torch.tensor([0.7]), labels=torch.tensor([2])),
    ]

    cells = tabulate(features)
    outlined = add_masks(found, cells, torch.tensor([[0.5] * 4, [2.0] * 4]), [(_Pool(), h) for h in heads])

    first, second = (image.masks for image in outlined)
    assert first is not None
    assert second is not None
    assert (first.shape, second.shape) == ((2, 4, 4), (1, 4, 4))
    pooled = torch.zeros(1, 8, 2, 2)
    pooled[:, 0], pooled[:, 1] = 7, 20
    expected = sum(head(pooled, torch.tensor([2])).sigmoid() for head in heads) / 2
    torch.testing.assert_close(second, expected)


def test_image_without_detections_gets_no_masks() -> None:
    nothing = Detections(boxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0).long())

    cells = tabulate([torch.zeros(1, 1, 3, 3)])
    (outlined,) = add_masks([nothing], cells, torch.ones(1, 4), [(_Pool(), _head())])

    assert outlined.masks is not None
    assert outlined.masks.shape == (0, 4, 4)
