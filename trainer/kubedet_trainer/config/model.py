"""The parts of a detector as plain typed options; the defaults are the zoo's R-50-FPN (`zoo.md` 2 to 5).

Each class holds the keyword arguments of the module of the same name in `kubedet_trainer.models`, which knows
nothing of this file.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from kubedet_trainer.config import rules

Style = Literal["pytorch", "caffe"]
Norm = Literal["bn", "gn"]


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """A residual network of bottleneck blocks in four stages (He et al., 2015)."""

    stage_blocks: tuple[int, ...] = (3, 4, 6, 3)
    """Blocks of each of the four stages: (3, 4, 6, 3) is ResNet-50."""
    stem_channels: int = 64
    """Channels after the first convolution; stage i ends with ``4 * stem_channels * 2**i`` of them."""
    style: Style = "pytorch"
    """Which convolution of a block carries the stride: pytorch the 3x3 one, caffe the first 1x1 one."""
    norm: Norm = "bn"
    """Batch normalisation, or group normalisation for training from scratch."""
    norm_groups: int = 32
    """Groups of each group normalisation; unused with batch normalisation."""
    frozen_stages: int = 1
    """The stem and this many stages keep their pretrained weights; -1 trains everything."""
    norm_eval: bool = True
    """Keep the statistics of batch normalisation fixed in training, as small batches need."""

    def __post_init__(self) -> None:
        """Refuse what no residual network can be built from."""
        path = "model.backbone"
        rules.require(
            len(self.stage_blocks) == 4 and min(self.stage_blocks) > 0,
            path=f"{path}.stage_blocks",
            got=self.stage_blocks,
            rule="must be four numbers >= 1",
        )
        rules.require_positive(path, stem_channels=self.stem_channels, norm_groups=self.norm_groups)
        rules.require_choice(f"{path}.style", self.style, get_args(Style))
        rules.require_choice(f"{path}.norm", self.norm, get_args(Norm))
        rules.require(
            self.norm == "bn" or self.stem_channels % self.norm_groups == 0,
            path=f"{path}.norm_groups",
            got=self.norm_groups,
            rule=f"must divide stem_channels = {self.stem_channels}",
        )
        rules.require(
            -1 <= self.frozen_stages <= 4,
            path=f"{path}.frozen_stages",
            got=self.frozen_stages,
            rule="must be from -1 to 4",
        )


@dataclass(frozen=True, kw_only=True)
class NeckConfig:
    """A feature pyramid on the stages of the backbone (Lin et al., 2016)."""

    channels: int = 256
    """Channels of every level."""
    start_stage: int = 0
    """The first stage that takes part: 0 starts the pyramid at stride 4, 1 at stride 8."""
    num_levels: int = 5
    """Levels given out; those beyond the backbone's stages are subsampled from the coarsest one."""

    def __post_init__(self) -> None:
        """Refuse a pyramid without levels."""
        rules.require_positive("model.neck", channels=self.channels)
        rules.require(
            0 <= self.start_stage <= 3,
            path="model.neck.start_stage",
            got=self.start_stage,
            rule="must be from 0 to 3",
        )
        rules.require(
            self.num_levels >= 4 - self.start_stage,
            path="model.neck.num_levels",
            got=self.num_levels,
            rule=f"must be >= {4 - self.start_stage}, the stages from start_stage on",
        )


@dataclass(frozen=True, kw_only=True)
class RpnHeadConfig:
    """A region proposal network: its anchors, its targets and what it proposes (`zoo.md` 4)."""

    anchor_scales: tuple[float, ...] = (8.0,)
    """Side of the square anchors in units of a level's stride."""
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height over width."""
    positive_iou: float = 0.7
    """An anchor at or above this overlap with a ground truth is positive."""
    negative_iou: float = 0.3
    """An anchor below this overlap with all ground truths is negative."""
    min_positive_iou: float = 0.3
    """A ground truth's best anchors are positive from this overlap on."""
    num_samples: int = 256
    """Anchors of one image that the loss is computed on."""
    positive_fraction: float = 0.5
    """At most this share of the samples is positive."""
    nms_pre: int = 2000
    """Best anchors of each level that enter non-maximum suppression."""
    nms_post: int = 2000
    """Most proposals that each level keeps."""
    num_proposals: int = 2000
    """Most proposals of an image, over all levels; the tensors always have this many slots or fewer."""
    nms_iou: float = 0.7
    """A proposal that overlaps a better one of its level by more than this is suppressed."""

    def __post_init__(self) -> None:
        """Refuse thresholds that contradict each other and sizes below one."""
        path = "model.rpn_head"
        for name in ("anchor_scales", "anchor_ratios"):
            values = getattr(self, name)
            rules.require(
                bool(values) and min(values) > 0,
                path=f"{path}.{name}",
                got=values,
                rule="must be numbers > 0",
            )
        rules.require_positive(
            path,
            num_samples=self.num_samples,
            nms_pre=self.nms_pre,
            nms_post=self.nms_post,
            num_proposals=self.num_proposals,
        )
        rules.require_fraction(
            path,
            positive_iou=self.positive_iou,
            negative_iou=self.negative_iou,
            min_positive_iou=self.min_positive_iou,
            positive_fraction=self.positive_fraction,
            nms_iou=self.nms_iou,
        )
        rules.require(
            self.negative_iou <= self.positive_iou,
            path=f"{path}.negative_iou",
            got=self.negative_iou,
            rule=f"must be <= positive_iou = {self.positive_iou}",
        )


@dataclass(frozen=True, kw_only=True)
class BoxHeadConfig:
    """The second stage: classify and refine proposals (`zoo.md` 5)."""

    roi_size: int = 7
    """Side of the pooled features of a region, in bins."""
    finest_roi: float = 56.0
    """A region of up to twice this side, in pixels, is pooled from the finest level."""
    fc_channels: int = 1024
    """Width of the two shared layers."""
    positive_iou: float = 0.5
    """A proposal at or above this overlap with a ground truth is positive, below it negative."""
    num_samples: int = 512
    """Proposals of one image that the loss is computed on."""
    positive_fraction: float = 0.25
    """At most this share of the samples is positive."""
    target_stds: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    """Scale of the regression targets dx, dy, dw, dh."""
    score_threshold: float = 0.05
    """Detections must score above this."""
    nms_iou: float = 0.5
    """A detection that overlaps a better one of its class by more than this is suppressed."""
    max_detections: int = 100
    """Most detections of an image."""

    def __post_init__(self) -> None:
        """Refuse thresholds outside [0, 1] and sizes below one."""
        path = "model.box_head"
        rules.require_positive(
            path,
            roi_size=self.roi_size,
            finest_roi=self.finest_roi,
            fc_channels=self.fc_channels,
            num_samples=self.num_samples,
            max_detections=self.max_detections,
        )
        rules.require_fraction(
            path,
            positive_iou=self.positive_iou,
            positive_fraction=self.positive_fraction,
            score_threshold=self.score_threshold,
            nms_iou=self.nms_iou,
        )
        rules.require(
            min(self.target_stds) > 0,
            path=f"{path}.target_stds",
            got=self.target_stds,
            rule="must be numbers > 0",
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Base of every detector's options; `architecture` names its builder in `kubedet_trainer.models`."""

    architecture: str = field(metadata={"fixed": True})
    """Key of `models.BUILDERS`."""


@dataclass(frozen=True, kw_only=True)
class RpnConfig(ModelConfig):
    """A region proposal network alone, trained for recall."""

    architecture: str = field(default="rpn", metadata={"fixed": True})
    """Key of `models.BUILDERS`."""
    backbone: BackboneConfig = BackboneConfig()
    """Pixels to feature maps."""
    neck: NeckConfig = NeckConfig()
    """Feature maps to a pyramid."""
    rpn_head: RpnHeadConfig = RpnHeadConfig()
    """Pyramid to proposals."""


@dataclass(frozen=True, kw_only=True)
class FasterRcnnConfig(RpnConfig):
    """Faster R-CNN (Ren et al., 2015) on a feature pyramid."""

    architecture: str = field(default="faster_rcnn", metadata={"fixed": True})
    """Key of `models.BUILDERS`."""
    box_head: BoxHeadConfig = BoxHeadConfig()
    """Proposals to detections."""


def model_options(model: ModelConfig) -> dict[str, Any]:
    """The keyword arguments of `models.build_model` for `model`: nested plain dictionaries."""
    options = asdict(model)
    del options["architecture"]
    return options
