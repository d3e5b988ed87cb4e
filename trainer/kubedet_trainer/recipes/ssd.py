"""The single shot detectors of the zoo (`zoo.md` 1.5, 2.3, 8, 9.1).

The zoo calls their style caffe for the weights' sake; their pixels are RGB of standard deviation 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kubedet_trainer.config import (
    DataConfig,
    NormalisationConfig,
    OptimizerConfig,
    Recipe,
    SsdConfig,
    SsdHeadConfig,
    VggConfig,
)
from kubedet_trainer.config.recipe import EvaluationKind
from kubedet_trainer.recipes import common

Dataset = Literal["coco", "voc"]

_NORMALISATION = NormalisationConfig(mean=(123.675, 116.28, 103.53), std=(1.0, 1.0, 1.0), to_rgb=True)
_MAPS: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {
    300: ((8, 16, 32, 64, 100, 300), (2, 3, 3, 3, 2, 2)),
    512: ((8, 16, 32, 64, 128, 256, 512), (2, 3, 3, 3, 3, 2, 2)),
}
"""Size of the input to the strides and the largest ratios of its source maps."""
_ANCHOR_SIZES: dict[tuple[int, Dataset], tuple[int, ...]] = {
    (300, "coco"): (21, 45, 99, 153, 207, 261, 315),
    (300, "voc"): (30, 60, 111, 162, 213, 264, 315),
    (512, "coco"): (20, 51, 133, 215, 296, 378, 460, 542),
    (512, "voc"): (35, 76, 153, 230, 307, 384, 460, 537),
}


@dataclass(frozen=True, kw_only=True)
class _Training:
    """How the detector is trained on one of the two data sets."""

    schedule: str
    lr: float
    repeat: int
    images_per_process: int
    num_workers: int
    evaluation_kind: EvaluationKind


_PROCESSES = 8
_TRAININGS: dict[Dataset, _Training] = {
    "coco": _Training(
        schedule="120e", lr=2e-3, repeat=5, images_per_process=8, num_workers=3, evaluation_kind="bbox"
    ),
    "voc": _Training(
        schedule="240e", lr=1e-3, repeat=10, images_per_process=4, num_workers=2, evaluation_kind="voc"
    ),
}


def ssd(size: int, dataset: Dataset) -> Recipe:
    """The detector for inputs of `size` x `size` pixels, 300 or 512."""
    strides, ratios = _MAPS[size]
    training = _TRAININGS[dataset]
    return common.zoo_recipe(
        f"ssd{size}_{dataset}",
        SsdConfig(
            backbone=VggConfig(input_size=size),
            ssd_head=SsdHeadConfig(
                strides=strides, anchor_ratios=ratios, anchor_sizes=_ANCHOR_SIZES[size, dataset]
            ),
        ),
        data=DataConfig(
            normalisation=_NORMALISATION,
            scale=(size, size),
            keep_aspect=False,
            augmentation="ssd",
            pad_multiple=1,
            repeat=training.repeat,
            images_per_process=training.images_per_process,
            num_workers=training.num_workers,
        ),
        schedule=training.schedule,
        pretrained=f"{common.PRETRAINED}/vgg16_caffe-292e1171.pth",
        optimizer=OptimizerConfig(lr=training.lr, weight_decay=5e-4, clip_norm=None),
        global_batch=_PROCESSES * training.images_per_process,
        evaluation_kind=training.evaluation_kind,
    )
