"""Region proposal head: scores anchors, moves them, and proposes the best (`docs/zoo.md`, 4)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kubedet_trainer.models import boxes as box_ops
from kubedet_trainer.models import losses, nms, pooling
from kubedet_trainer.models.anchors import AnchorGrid, pyramid_anchors
from kubedet_trainer.models.assign import MaxIouAssigner
from kubedet_trainer.models.compilable import compilable
from kubedet_trainer.models.options.two_stage import RpnHeadOptions
from kubedet_trainer.models.sample import BalancedSampler, Samples
from kubedet_trainer.structures import Images, Proposals, Targets

_REGRESSION_BETA = 1 / 9
_NUM_OUTPUTS = 5
"""Of an anchor: the logit of its objectness and four deltas."""
_EMPTY_SCORE = -1.0
"""Below every sigmoid, so that empty slots sort last."""


@dataclass(frozen=True, kw_only=True)
class RpnOutput:
    """What the convolutions say about every anchor of every level."""

    maps: list[Tensor]
    """(B, 5 A, h, w) a level: for each anchor of a cell the logit of its objectness, then its deltas."""
    anchors: Tensor
    """(sum of A h w, 4), in the order of the flattened levels."""


@dataclass(frozen=True, kw_only=True)
class SampleLosses:
    """The losses of each sampled anchor, before they are added up."""

    classification: Tensor
    """(B, S), zero in empty slots."""
    regression: Tensor
    """(B, S), zero for negatives."""
    samples: Samples
    """Which anchors."""
    divisor: Tensor
    """Scalar that both sums are divided by: the samples of the batch, at least one of each kind an image."""


class RpnHead(nn.Module):
    """A 3x3 convolution shared by all levels, and 1x1 convolutions for objectness and deltas.

    Source: Ren et al., 2015; `docs/zoo.md`, 4.1.
    """

    def __init__(self, options: RpnHeadOptions, *, in_channels: int, strides: Sequence[int]) -> None:
        """For levels of `in_channels` and `strides`."""
        super().__init__()
        self.options = options
        bases = pyramid_anchors(strides, scales=options.anchor_scales, ratios=options.anchor_ratios)
        self.anchor_grid = AnchorGrid(strides=strides, bases=bases)
        num_anchors = len(bases[0])
        self.rpn_conv = nn.Conv2d(in_channels, in_channels, 3, padding=1)
        self.rpn_cls = nn.Conv2d(in_channels, num_anchors, 1)
        self.rpn_reg = nn.Conv2d(in_channels, num_anchors * 4, 1)
        for conv in (self.rpn_conv, self.rpn_cls, self.rpn_reg):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.assigner = MaxIouAssigner(
            positive_iou=options.positive_iou,
            negative_iou=options.negative_iou,
            min_positive_iou=options.min_positive_iou,
        )
        self.sampler = BalancedSampler(
            num_samples=options.num_samples, positive_fraction=options.positive_fraction
        )

    @torch.no_grad()
    def forward(self, features: Sequence[Tensor]) -> RpnOutput:
        """Score and move the anchors of each (B, C, h, w) level, to propose from: without gradients.

        The loss looks at some hundred anchors of a hundred thousand and computes these again (`_judge`): to
        take the gradient of the whole maps, nearly all zero, would cost twice what they did, and keep them.
        """
        return RpnOutput(maps=self._maps(features), anchors=self.anchor_grid(features))

    @compilable("sizes")
    def _maps(self, features: Sequence[Tensor]) -> list[Tensor]:
        hidden = [F.relu(self.rpn_conv(feature), inplace=True) for feature in features]
        weight, bias = (values.to(hidden[0].dtype) for values in self._filters())  # once for all levels
        return [F.conv2d(level, weight[..., None, None], bias) for level in hidden]

    def losses(
        self,
        output: RpnOutput,
        cells: pooling.Cells,
        images: Images,
        targets: Targets,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """``loss_rpn_cls`` and ``loss_rpn_reg``, scalars; `cells` are those of the levels."""
        each = self.sample_losses(output, cells, images, targets, generator)
        return {
            "loss_rpn_cls": each.classification.sum() / each.divisor,
            "loss_rpn_reg": each.regression.sum() / each.divisor,
        }

    def sample_losses(
        self,
        output: RpnOutput,
        cells: pooling.Cells,
        images: Images,
        targets: Targets,
        generator: torch.Generator,
    ) -> SampleLosses:
        """Assign all anchors inside the images, sample some, and compute the loss of each.

        Source: `docs/zoo.md`, 4.3 and 4.5.
        """
        anchors = output.anchors
        taking_part = box_ops.inside(anchors, images.sizes[:, None])
        assigned = self.assigner(anchors, taking_part, targets.boxes, targets.valid).targets
        samples = self.sampler(assigned, generator)
        gt_slots = (assigned.gather(1, samples.indices) - 1).clamp(min=0)
        wanted = box_ops.encode(anchors[samples.indices], _pick(targets.boxes, gt_slots))
        logits, deltas = self._judge(cells, samples.indices)
        used = samples.positive | samples.negative
        counts = samples.positive.sum(dim=1).clamp(min=1) + samples.negative.sum(dim=1).clamp(min=1)
        return SampleLosses(
            classification=losses.binary_cross_entropy(logits, samples.positive, used=used),
            regression=losses.smooth_l1(deltas, wanted, used=samples.positive, beta=_REGRESSION_BETA),
            samples=samples,
            divisor=counts.sum(),
        )

    def _filters(self) -> tuple[Tensor, Tensor]:
        """Weight (5 A, C) and bias (5 A,) of both 1x1 convolutions as one, ordered as `RpnOutput.maps`."""
        layers = self.rpn_cls, self.rpn_reg
        shape = self.rpn_cls.out_channels, -1
        weights = [layer.weight.view(*shape, layer.in_channels) for layer in layers]
        biases = [layer.bias.view(*shape) for layer in layers if layer.bias is not None]
        return torch.cat(weights, dim=1).flatten(0, 1), torch.cat(biases, dim=1).flatten()

    def _judge(self, cells: pooling.Cells, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, S) and deltas (B, S, 4), float32, of the anchors at (B, S) `indices` alone."""
        num_anchors = self.rpn_cls.out_channels
        patches = pooling.patches(cells, indices // num_anchors)
        assert self.rpn_conv.bias is not None
        # A view, as the kernel is: of the bias itself autocast may have a copy that knows no gradient, from
        # `forward`, and older versions of torch take that (https://github.com/pytorch/pytorch/issues/112583).
        bias = self.rpn_conv.bias.view(-1)
        kernel = self.rpn_conv.weight.permute(0, 2, 3, 1)
        hidden = F.relu(F.linear(patches, kernel.flatten(1), bias), inplace=True)
        of_cell = F.linear(hidden, *self._filters()).view(*indices.shape, num_anchors, _NUM_OUTPUTS)
        own = (indices % num_anchors)[..., None, None].expand(-1, -1, 1, _NUM_OUTPUTS)
        judged = of_cell.gather(2, own).squeeze(2).float()
        return judged[..., 0], judged[..., 1:]

    @torch.no_grad()
    def propose(self, output: RpnOutput, images: Images) -> Proposals:
        """The best boxes of each image: the best of every level, suppressed there, then the best over all.

        Source: `docs/zoo.md`, 4.6.
        """
        judged = _all_levels(output.maps)
        levels = self._best_of_levels(judged[..., 0].contiguous().sigmoid(), output)
        scores, order = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
        deltas = _pick(judged[..., 1:], order)
        boxes = box_ops.decode(output.anchors[order], deltas, sizes=images.sizes[:, None])
        kept = nms.survivors(
            boxes,
            scores,
            sections=[level_scores.shape[1] for level_scores, _ in levels],
            iou_threshold=self.options.nms_iou,
            most=self.options.nms_post,
            extent=max(images.pixels.shape[-2:]),
        )
        scores = scores.masked_fill(~kept, _EMPTY_SCORE)
        best, order = scores.topk(min(self.options.num_proposals, scores.shape[1]))
        return Proposals(boxes=_pick(boxes, order), scores=best, valid=best > _EMPTY_SCORE)

    def _best_of_levels(self, scores: Tensor, output: RpnOutput) -> list[tuple[Tensor, Tensor]]:
        """The highest of (B, N) `scores` of each level, best first, and their indices into N, all (B, K)."""
        counts = [level[0].numel() // _NUM_OUTPUTS for level in output.maps]
        begins = itertools.accumulate(counts, initial=0)
        levels = zip(torch.split(scores, counts, dim=1), begins, strict=False)
        best = [(*level.topk(min(self.options.nms_pre, level.shape[1])), begin) for level, begin in levels]
        return [(values, order + begin if begin else order) for values, order, begin in best]


def _all_levels(maps: Sequence[Tensor]) -> Tensor:
    """The maps of all levels in the order of the anchors: a float32 copy (B, N, 5)."""
    cells = torch.cat([level.flatten(2).mT for level in maps], dim=1)
    return cells.view(len(cells), -1, _NUM_OUTPUTS).float()


def _pick(rows: Tensor, indices: Tensor) -> Tensor:
    """Of (B, N, D) `rows` those at (B, S) `indices`: (B, S, D)."""
    return rows.gather(1, indices[..., None].expand(-1, -1, rows.shape[-1]))
