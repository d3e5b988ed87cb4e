"""A recipe: everything that a training run of one detector consists of, data and machines excepted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from kubedet_trainer.config import rules
from kubedet_trainer.config.model import ModelConfig

Precision = Literal["fp32", "bf16", "fp16"]
EvaluationKind = Literal["bbox", "segm", "proposal", "voc"]
Augmentation = Literal["flip", "ssd"]


@dataclass(frozen=True, kw_only=True)
class NormalisationConfig:
    """How uint8 pixels become the network's input: ``(x - mean) / std`` per channel."""

    mean: tuple[float, float, float]
    """In the channel order that the network sees."""
    std: tuple[float, float, float]
    """In the channel order that the network sees."""
    to_rgb: bool
    """Whether the network sees RGB; False leaves OpenCV's BGR."""

    def __post_init__(self) -> None:
        """Refuse a division by zero."""
        rules.require(
            min(self.std) > 0, path="data.normalisation.std", got=self.std, rule="must be numbers > 0"
        )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How images are read and prepared (`zoo.md` 1)."""

    normalisation: NormalisationConfig
    """Fitting the pretrained backbone."""
    scale: tuple[int, int] = (1333, 800)
    """Longest and shortest side in pixels that an image is resized to fit within."""
    keep_aspect: bool = True
    """Whether an image keeps its aspect; otherwise it is stretched to exactly `scale`, (width, height)."""
    augmentation: Augmentation = "flip"
    """What training does beside mirroring: nothing, or the single shot detector's colours, zoom and crops."""
    pad_multiple: int = 32
    """Height and width of a batch are padded to multiples of this: the coarsest stride of the backbone."""
    flip_probability: float = 0.5
    """Share of training images that are mirrored left to right."""
    masks: bool = False
    """Whether training needs the outlines of the objects."""
    num_proposals: int | None = None
    """Best precomputed proposals of an image that are used; None where the detector makes its own."""
    classes: tuple[str, ...] = ()
    """Categories that are learnt and evaluated, the others left out; empty: all that the data set has."""
    keep_empty: bool = False
    """Whether images without objects are trained on, as examples of background."""
    min_image_side: int = 32
    """Training images with a shorter side, in pixels, are left out."""
    max_image_pixels: int = 2**28
    """The most pixels of an image; one with more is refused before it is decoded."""
    repeat: int = 1
    """How often an epoch passes over the training images."""
    images_per_process: int = 2
    """Images of one forward and backward pass of one process."""
    num_workers: int = 2
    """Processes that decode images, per rank; 0 decodes in the rank itself."""

    def __post_init__(self) -> None:
        """Refuse sizes below one."""
        rules.require(
            self.scale[0] >= self.scale[1] > 0,
            path="data.scale",
            got=self.scale,
            rule="must be (longest, shortest) side, both > 0",
        )
        rules.require_choice("data.augmentation", self.augmentation, get_args(Augmentation))
        rules.require_positive(
            "data",
            pad_multiple=self.pad_multiple,
            images_per_process=self.images_per_process,
            repeat=self.repeat,
            min_image_side=self.min_image_side,
            max_image_pixels=self.max_image_pixels,
        )
        rules.require(
            len(set(self.classes)) == len(self.classes),
            path="data.classes",
            got=self.classes,
            rule="must be different names",
        )
        rules.require(
            not self.masks or self.pad_multiple % 8 == 0,
            path="data.pad_multiple",
            got=self.pad_multiple,
            rule="must be a multiple of 8 where masks are learnt: eight pixels of a mask share a byte",
        )
        rules.require(
            not self.masks or self.augmentation == "flip",
            path="data.augmentation",
            got=self.augmentation,
            rule="must be flip where masks are learnt: the others move boxes only",
        )
        if self.num_proposals is not None:
            rules.require_positive("data", num_proposals=self.num_proposals)
        rules.require_fraction("data", flip_probability=self.flip_probability)
        rules.require(
            self.num_workers >= 0, path="data.num_workers", got=self.num_workers, rule="must be >= 0"
        )


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Stochastic gradient descent, one parameter group for all weights (`zoo.md` 9.1)."""

    lr: float = 0.02
    """Learning rate after warm-up, for the recipe's `global_batch`."""
    momentum: float = 0.9
    """Without Nesterov's correction."""
    weight_decay: float = 1e-4
    """On every parameter, biases and normalisation included."""
    clip_norm: float | None = 35.0
    """The global L2 norm that gradients are clipped to; None leaves them."""

    def __post_init__(self) -> None:
        """Refuse values that cannot learn."""
        rules.require_positive("optimizer", lr=self.lr)
        rules.require(
            0 <= self.momentum < 1, path="optimizer.momentum", got=self.momentum, rule="must be >= 0 and < 1"
        )
        rules.require(
            self.weight_decay >= 0, path="optimizer.weight_decay", got=self.weight_decay, rule="must be >= 0"
        )
        if self.clip_norm is not None:
            rules.require_positive("optimizer", clip_norm=self.clip_norm)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """A step schedule with linear warm-up (`zoo.md` 9.1)."""

    epochs: int
    """Passes over the training images."""
    decay_epochs: tuple[int, ...]
    """At the start of each of these epochs, counted from 0, the rate is multiplied by `decay_factor`."""
    decay_factor: float = 0.1
    """See `decay_epochs`."""
    warmup_iterations: int = 500
    """Iterations over which the rate rises linearly from `warmup_ratio` of itself."""
    warmup_ratio: float = 1 / 3
    """Share of the learning rate at iteration 0."""

    def __post_init__(self) -> None:
        """Refuse a schedule that never ends or decays out of order."""
        rules.require_positive("schedule", epochs=self.epochs, decay_factor=self.decay_factor)
        rules.require(
            list(self.decay_epochs) == sorted(set(self.decay_epochs))
            and min(self.decay_epochs, default=1) > 0,
            path="schedule.decay_epochs",
            got=self.decay_epochs,
            rule="must be rising numbers >= 1",
        )
        rules.require(
            self.warmup_iterations >= 0,
            path="schedule.warmup_iterations",
            got=self.warmup_iterations,
            rule="must be >= 0",
        )
        rules.require_fraction("schedule", warmup_ratio=self.warmup_ratio)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One row of the zoo, complete: printing it shows all that decides its figures."""

    name: str = field(metadata={"fixed": True})
    """Key of `recipes.RECIPES`."""
    model: ModelConfig
    """The detector; the number of classes comes from the data set."""
    data: DataConfig
    """How images are read and prepared."""
    schedule: ScheduleConfig
    """How long, and how the learning rate moves."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How weights move."""
    global_batch: int = 16
    """Images between two optimiser steps, over all processes; kept when their number changes."""
    precision: Precision = "fp32"
    """Arithmetic of forward and backward; weights stay in float32."""
    seed: int = 0
    """Of initial weights, epoch order, augmentation and sampling."""
    pretrained: str | None = None
    """URI of the backbone's weights; None trains from scratch."""
    evaluation_kind: EvaluationKind = "bbox"
    """What is measured: COCO's box AP, box and mask AP, the recall of proposals, or VOC's box mAP."""
    reference: Mapping[str, float] = field(default_factory=dict, metadata={"fixed": True})
    """The published figures of this recipe under the names of `contract.Results`; empty where none are."""

    def __post_init__(self) -> None:
        """Refuse a batch that processes cannot share."""
        rules.require_positive("recipe", global_batch=self.global_batch)
        rules.require(
            self.global_batch % self.data.images_per_process == 0,
            path="global_batch",
            got=self.global_batch,
            rule=f"must be a multiple of data.images_per_process = {self.data.images_per_process}",
        )
        rules.require_choice("precision", self.precision, get_args(Precision))
        rules.require_choice("evaluation_kind", self.evaluation_kind, get_args(EvaluationKind))
        rules.require(self.seed >= 0, path="seed", got=self.seed, rule="must be >= 0")


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """The whole recipe as what JSON can hold: nested dictionaries, tuples as lists."""
    document = _plain(asdict(recipe))
    assert isinstance(document, dict)
    return document


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
