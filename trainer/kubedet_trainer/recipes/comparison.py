"""The zoo's figures for Detectron and Detectron.pytorch, next to its own: R-50-FPN on COCO.

Source: as `published`. Both others use caffe's ResNet. The zoo's own figures are those of its rows and not
repeated here, but for its training and inference on a TITAN XP, which only this comparison has.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Precision or recall in percent; what does not apply or was not reported is None."""

    box_ap: float | None = None
    mask_ap: float | None = None
    ar1000: float | None = None


@dataclass(frozen=True, kw_only=True)
class AccuracyRow:
    """One method and schedule, by codebase; a whole codebase is None where nothing was reported."""

    method: str
    schedule: str
    detectron: Quality | None = None
    detectron_pytorch: Quality | None = None

    @property
    def recipe(self) -> str:
        """The zoo's recipe with pytorch's backbone."""
        return f"{self.method}_r50_fpn_{self.schedule}"

    @property
    def caffe_recipe(self) -> str:
        """The zoo's recipe with caffe's backbone, which exists for 1x."""
        return f"{self.method}_r50_caffe_fpn_{self.schedule}"


@dataclass(frozen=True, kw_only=True)
class SpeedRow:
    """One method by codebase and GPU; the zoo's with pytorch's backbone."""

    method: str
    detectron_p100: float
    zoo_xp: float
    detectron_pytorch_xp: float | None = None


ACCURACY = (
    AccuracyRow(method="rpn", schedule="1x", detectron=Quality(ar1000=57.2)),
    AccuracyRow(method="rpn", schedule="2x"),
    AccuracyRow(
        method="faster_rcnn",
        schedule="1x",
        detectron=Quality(box_ap=36.7),
        detectron_pytorch=Quality(box_ap=37.1),
    ),
    AccuracyRow(method="faster_rcnn", schedule="2x", detectron=Quality(box_ap=37.9)),
    AccuracyRow(
        method="mask_rcnn",
        schedule="1x",
        detectron=Quality(box_ap=37.7, mask_ap=33.9),
        detectron_pytorch=Quality(box_ap=37.7, mask_ap=33.7),
    ),
    AccuracyRow(method="mask_rcnn", schedule="2x", detectron=Quality(box_ap=38.6, mask_ap=34.5)),
    AccuracyRow(method="fast_rcnn", schedule="1x", detectron=Quality(box_ap=36.4)),
    AccuracyRow(method="fast_rcnn", schedule="2x", detectron=Quality(box_ap=36.8)),
    AccuracyRow(method="fast_mask_rcnn", schedule="1x", detectron=Quality(box_ap=37.3, mask_ap=33.7)),
    AccuracyRow(method="fast_mask_rcnn", schedule="2x", detectron=Quality(box_ap=37.7, mask_ap=34.0)),
)

TRAINING_SECONDS = (
    SpeedRow(method="rpn", detectron_p100=0.416, zoo_xp=0.413),
    SpeedRow(method="faster_rcnn", detectron_p100=0.544, detectron_pytorch_xp=1.015, zoo_xp=0.579),
    SpeedRow(method="mask_rcnn", detectron_p100=0.889, detectron_pytorch_xp=1.435, zoo_xp=0.732),
    SpeedRow(method="fast_rcnn", detectron_p100=0.285, zoo_xp=0.398),
    SpeedRow(method="fast_mask_rcnn", detectron_p100=0.377, zoo_xp=0.574),
)
"""Seconds of one training iteration of 16 images."""

INFERENCE_FPS = (
    SpeedRow(method="rpn", detectron_p100=12.5, zoo_xp=15.4),
    SpeedRow(method="faster_rcnn", detectron_p100=10.3, zoo_xp=9.8),
    SpeedRow(method="mask_rcnn", detectron_p100=8.5, zoo_xp=7.4),
    SpeedRow(method="fast_rcnn", detectron_p100=12.5, zoo_xp=14.1),
    SpeedRow(method="fast_mask_rcnn", detectron_p100=9.9, zoo_xp=10.3),
)
"""Images a second at batch 1. The page has no figures of Detectron.pytorch."""

TRAINING_MEMORY_GB = {"Detectron": 10.6, "mmdetection": 9.3}
"""Of Mask R-CNN with 2 images per GPU, by `nvidia-smi`."""
