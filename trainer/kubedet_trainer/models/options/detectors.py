"""Parts that several detectors are built from together."""

from __future__ import annotations

from dataclasses import dataclass

from kubedet_trainer.models.options.backbones import FpnOptions, ResNetOptions
from kubedet_trainer.models.options.two_stage import BoxHeadOptions, MaskHeadOptions, RoiOptions


@dataclass(frozen=True, kw_only=True)
class PyramidOptions:
    """A ResNet with a feature pyramid."""

    backbone: ResNetOptions = ResNetOptions()
    """Pixels to feature maps."""
    neck: FpnOptions = FpnOptions()
    """Feature maps to a pyramid."""


@dataclass(frozen=True, kw_only=True)
class RegionOptions:
    """How regions are classified and refined."""

    box_roi: RoiOptions = RoiOptions()
    """Pyramid and proposals to the features of regions."""
    box_head: BoxHeadOptions = BoxHeadOptions()
    """Those to detections."""


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """How objects are outlined."""

    mask_roi: RoiOptions = RoiOptions(size=14)
    """Pyramid and detections to the features of regions."""
    mask_head: MaskHeadOptions = MaskHeadOptions()
    """Those to outlines; in a cascade each stage has such a head."""
