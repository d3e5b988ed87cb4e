"""The detectors as plain typed options: the parts of each, under the names of its module's arguments."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from kubedet_trainer.config import rules
from kubedet_trainer.config.backbones import NeckConfig, ResNetConfig, VggConfig
from kubedet_trainer.config.dense import RetinaHeadConfig, SsdHeadConfig
from kubedet_trainer.config.heads import (
    BoxHeadConfig,
    CascadeConfig,
    MaskHeadConfig,
    RoiConfig,
    RpnHeadConfig,
)

_MASK_ROI = RoiConfig(size=14)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Base of every detector's options; `architecture` names its builder in `kubedet_trainer.models`."""

    architecture: str = field(metadata={"fixed": True})
    """Key of `models.BUILDERS`."""


def _architecture(name: str) -> Any:
    return field(default=name, metadata={"fixed": True})


@dataclass(frozen=True, kw_only=True)
class _PyramidConfig(ModelConfig):
    """A ResNet with a feature pyramid."""

    backbone: ResNetConfig = ResNetConfig()
    """Pixels to feature maps."""
    neck: NeckConfig = NeckConfig()
    """Feature maps to a pyramid."""


@dataclass(frozen=True, kw_only=True)
class RpnConfig(_PyramidConfig):
    """A region proposal network alone, trained for recall."""

    architecture: str = _architecture("rpn")
    """Key of `models.BUILDERS`."""
    rpn_head: RpnHeadConfig = RpnHeadConfig()
    """Pyramid to proposals."""


@dataclass(frozen=True, kw_only=True)
class FastRcnnConfig(_PyramidConfig):
    """Fast R-CNN (Girshick, 2015) on a feature pyramid, with proposals computed beforehand."""

    architecture: str = _architecture("fast_rcnn")
    """Key of `models.BUILDERS`."""
    box_roi: RoiConfig = RoiConfig()
    """Pyramid and proposals to the features of regions."""
    box_head: BoxHeadConfig = BoxHeadConfig()
    """Those to detections."""


@dataclass(frozen=True, kw_only=True)
class FastMaskRcnnConfig(FastRcnnConfig):
    """Fast R-CNN with outlines of the objects."""

    architecture: str = _architecture("fast_mask_rcnn")
    """Key of `models.BUILDERS`."""
    mask_roi: RoiConfig = _MASK_ROI
    """Pyramid and detections to the features of regions."""
    mask_head: MaskHeadConfig = MaskHeadConfig()
    """Those to outlines."""


@dataclass(frozen=True, kw_only=True)
class FasterRcnnConfig(RpnConfig):
    """Faster R-CNN (Ren et al., 2015) on a feature pyramid."""

    architecture: str = _architecture("faster_rcnn")
    """Key of `models.BUILDERS`."""
    box_roi: RoiConfig = RoiConfig()
    """Pyramid and proposals to the features of regions."""
    box_head: BoxHeadConfig = BoxHeadConfig()
    """Those to detections."""


@dataclass(frozen=True, kw_only=True)
class MaskRcnnConfig(FasterRcnnConfig):
    """Mask R-CNN (He et al., 2017) on a feature pyramid."""

    architecture: str = _architecture("mask_rcnn")
    """Key of `models.BUILDERS`."""
    mask_roi: RoiConfig = _MASK_ROI
    """Pyramid and detections to the features of regions."""
    mask_head: MaskHeadConfig = MaskHeadConfig()
    """Those to outlines."""


@dataclass(frozen=True, kw_only=True)
class CascadeRcnnConfig(FasterRcnnConfig):
    """Cascade R-CNN (Cai and Vasconcelos, 2017): stages that refine each other's boxes."""

    architecture: str = _architecture("cascade_rcnn")
    """Key of `models.BUILDERS`."""
    box_head: BoxHeadConfig = BoxHeadConfig(class_agnostic=True)
    """The first stage."""
    cascade: CascadeConfig = CascadeConfig()
    """How the further stages differ from it."""

    def __post_init__(self) -> None:
        """Refuse a refinement for each class: which one would the next stage start from?"""
        rules.require(
            self.box_head.class_agnostic,
            path="model.box_head.class_agnostic",
            got=self.box_head.class_agnostic,
            rule="must be True in a cascade",
        )


@dataclass(frozen=True, kw_only=True)
class CascadeMaskRcnnConfig(CascadeRcnnConfig):
    """Cascade R-CNN with outlines of the objects."""

    architecture: str = _architecture("cascade_mask_rcnn")
    """Key of `models.BUILDERS`."""
    mask_roi: RoiConfig = _MASK_ROI
    """Pyramid and detections to the features of regions."""
    mask_head: MaskHeadConfig = MaskHeadConfig()
    """Those to outlines, one such head a stage."""


@dataclass(frozen=True, kw_only=True)
class RetinaNetConfig(_PyramidConfig):
    """RetinaNet (Lin et al., 2017): one stage on a feature pyramid."""

    architecture: str = _architecture("retinanet")
    """Key of `models.BUILDERS`."""
    neck: NeckConfig = NeckConfig(start_stage=1, extra_levels="conv")
    """Feature maps to a pyramid."""
    retina_head: RetinaHeadConfig = RetinaHeadConfig()
    """Pyramid to detections."""


@dataclass(frozen=True, kw_only=True)
class SsdConfig(ModelConfig):
    """The single shot detector (Liu et al., 2015) on VGG-16."""

    architecture: str = _architecture("ssd")
    """Key of `models.BUILDERS`."""
    backbone: VggConfig = VggConfig()
    """Pixels to source maps."""
    ssd_head: SsdHeadConfig = SsdHeadConfig()
    """Those to detections."""


def model_options(model: ModelConfig) -> dict[str, Any]:
    """The keyword arguments of `models.build_model` for `model`: nested plain dictionaries."""
    options = asdict(model)
    del options["architecture"]
    return options
