"""The single shot detectors of the zoo (`docs/zoo.md`, 1.5, 2.3, 8 and 9.1).

The zoo calls their style caffe for the weights' sake; their pixels are RGB of standard deviation 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from kubedet_trainer.config import ColourConfig, DataConfig, DetectorOptions, OptimizerConfig, Recipe
from kubedet_trainer.config.fields import fixed
from kubedet_trainer.config.recipe import EvaluationKind
from kubedet_trainer.models.options.backbones import VggOptions
from kubedet_trainer.models.options.dense import SsdHeadOptions
from kubedet_trainer.models.options.task import NormalisationOptions, Task
from kubedet_trainer.recipes import common

if TYPE_CHECKING:
    from kubedet_trainer.models.detector import Detector

Size = Literal[300, 512]
Dataset = Literal["coco", "voc"]


@dataclass(frozen=True, kw_only=True)
class SsdOptions(DetectorOptions):
    """The single shot detector (Liu et al., 2015) on VGG-16."""

    architecture: str = fixed(default="ssd")
    backbone: VggOptions = VggOptions()
    """Pixels to source maps."""
    ssd_head: SsdHeadOptions = SsdHeadOptions()
    """Those to detections."""

    def build(self, task: Task) -> Detector:
        """The detector with fresh weights."""
        from kubedet_trainer.models.ssd import Ssd

        return Ssd(task, backbone=self.backbone, head=self.ssd_head)


_NORMALISATION = NormalisationOptions(mean=(123.675, 116.28, 103.53), std=(1.0, 1.0, 1.0), to_rgb=True)
COLOURS = ColourConfig(
    brightness=32.0, contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=18.0, swap_channels=True
)
"""How far the single shot detector's training changes colours."""
_MAPS: dict[Size, tuple[tuple[int, ...], tuple[Literal[2, 3], ...]]] = {
    300: ((8, 16, 32, 64, 100, 300), (2, 3, 3, 3, 2, 2)),
    512: ((8, 16, 32, 64, 128, 256, 512), (2, 3, 3, 3, 3, 2, 2)),
}
"""Size of the input to the strides and the largest ratios of its source maps."""
_ANCHOR_SIZES: dict[tuple[Size, Dataset], tuple[int, ...]] = {
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


def ssd(size: Size, dataset: Dataset) -> Recipe:
    """The detector for inputs of `size` x `size` pixels, 300 or 512."""
    strides, ratios = _MAPS[size]
    training = _TRAININGS[dataset]
    recipe = common.zoo_recipe(
        f"ssd{size}_{dataset}",
        SsdOptions(
            backbone=VggOptions(input_size=size),
            ssd_head=SsdHeadOptions(
                strides=strides, anchor_ratios=ratios, anchor_sizes=_ANCHOR_SIZES[size, dataset]
            ),
        ),
        data=DataConfig(
            normalisation=_NORMALISATION,
            scale=(size, size),
            keep_aspect=False,
            augmentation="ssd",
            colours=COLOURS,
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
    # The detector gives 200; the published figures count COCO's 100.
    return replace(recipe, evaluation_detections=100)
