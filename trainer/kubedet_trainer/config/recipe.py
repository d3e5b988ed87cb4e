"""A recipe: everything that a training run of one detector consists of, data and machines excepted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Literal

from kubedet_trainer.config.detector import DetectorOptions
from kubedet_trainer.config.fields import check, fixed
from kubedet_trainer.config.published import MemoryKind, PublishedRow
from kubedet_trainer.contract.bounds import bounded
from kubedet_trainer.models.options.boxes import DetectionOptions
from kubedet_trainer.models.options.task import NormalisationOptions, Task

if TYPE_CHECKING:
    from kubedet_trainer.models.detector import Detector

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
EvaluationKind = Literal["bbox", "segm", "proposal", "voc"]
_USUAL_DETECTIONS = 100
"""COCO's own limit."""

Augmentation = Literal["flip", "ssd"]

_MOST_JITTER = 4.0
"""Sixteen times the pixels, and about as many times the memory."""


@dataclass(frozen=True, kw_only=True)
class ColourConfig:
    """Random changes of colour in training, each made to every second image (`docs/zoo.md`, 1.5)."""

    brightness: float = bounded(default=0.0, minimum=0, maximum=255)
    """The most that is added to all values of an image, or taken from them; they go from 0 to 255."""
    contrast: tuple[float, float] = bounded(default=(1.0, 1.0), minimum=0)
    """Least and largest factor of all values."""
    saturation: tuple[float, float] = bounded(default=(1.0, 1.0), minimum=0)
    """Least and largest factor of the saturation."""
    hue: float = bounded(default=0.0, minimum=0, maximum=180)
    """The most, in degrees, by which the hue is turned."""
    swap_channels: bool = False
    """Whether the three channels change places."""

    def breaches(self) -> Iterator[tuple[str, str]]:
        """Factors in the wrong order."""
        for name in ("contrast", "saturation"):
            least, most = getattr(self, name)
            if least > most:
                yield name, "must be (least, largest) factor"


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How images are read and prepared (`docs/zoo.md`, 1)."""

    normalisation: NormalisationOptions
    """Fitting the pretrained backbone."""
    scale: tuple[int, int] = bounded(default=(1333, 800), minimum=1)
    """Longest and shortest side in pixels that an image is resized to fit within."""
    keep_aspect: bool = True
    """Whether an image keeps its aspect; otherwise it is stretched to exactly `scale`, (width, height)."""
    augmentation: Augmentation = "flip"
    """What training does to the geometry besides mirroring: nothing, or the single shot detector's zoom and
    crops."""
    colours: ColourConfig = ColourConfig()
    """How training changes colours; not at all by default."""
    scale_jitter: tuple[float, float] = bounded(default=(1.0, 1.0), exclusive_minimum=0, maximum=_MOST_JITTER)
    """Least and largest factor of `scale` in training, drawn for each image."""
    pad_multiple: int = bounded(default=32, minimum=1)
    """Height and width of a batch are padded to multiples of this: the coarsest stride of the backbone."""
    flip_probability: float = bounded(default=0.5, minimum=0, maximum=1)
    """Share of training images that are mirrored left to right."""
    masks: bool = False
    """Whether training needs the outlines of the objects."""
    num_proposals: int | None = bounded(default=None, minimum=1)
    """Best precomputed proposals of an image that are used; None where the detector makes its own."""
    classes: tuple[str, ...] = ()
    """Categories that are learnt and evaluated, the others left out; empty: all that the data set has."""
    keep_empty: bool = False
    """Whether images without objects are trained on, as examples of background."""
    min_image_side: int = bounded(default=32, minimum=1)
    """Training images with a shorter side, in pixels, are left out."""
    max_image_pixels: int = bounded(default=2**28, minimum=1)
    """The most pixels of an image; one with more is refused before it is decoded."""
    repeat: int = bounded(default=1, minimum=1)
    """How often an epoch passes over the training images."""
    balance_threshold: float | None = bounded(default=None, exclusive_minimum=0, maximum=1)
    """Images of a class that is in a smaller share of the images are repeated in an epoch, sqrt(threshold /
    share) times on average (Gupta et al., 2019); None repeats none."""
    images_per_process: int = bounded(default=2, minimum=1)
    """Images of one forward and backward pass of one process. `auto` as an override: as many of its share of
    the global batch as the memory of a GPU is estimated to hold; without GPUs the recipe's number."""
    fills_memory: bool = fixed(default=False)
    """Whether `images_per_process` was overridden with `auto`."""
    num_workers: int = bounded(default=2, minimum=0)
    """Processes that decode images, per rank; 0 decodes in the rank itself."""

    def breaches(self) -> Iterator[tuple[str, str]]:
        """Sides or factors in the wrong order, a class named twice, and what masks cannot be learnt with."""
        if self.scale[0] < self.scale[1]:
            yield "scale", "must be (longest, shortest) side"
        if self.scale_jitter[0] > self.scale_jitter[1]:
            yield "scale_jitter", "must be (least, largest) factor"
        if self.scale_jitter != (1.0, 1.0) and not self.keep_aspect:
            yield "scale_jitter", "must be 1.0,1.0 where keep_aspect is false: all images have one size there"
        if len(set(self.classes)) != len(self.classes):
            yield "classes", "must be different names"
        if self.masks and self.augmentation != "flip":
            yield "augmentation", "must be flip where masks are learnt: the others move boxes only"


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Stochastic gradient descent, one parameter group for all weights (`docs/zoo.md`, 9.1)."""

    lr: float = bounded(default=0.02, exclusive_minimum=0)
    """Learning rate after warm-up, for the recipe's `global_batch`."""
    momentum: float = bounded(default=0.9, minimum=0, exclusive_maximum=1)
    """Without Nesterov's correction."""
    weight_decay: float = bounded(default=1e-4, minimum=0)
    """On every parameter, biases and normalisation included."""
    clip_norm: float | None = bounded(default=35.0, exclusive_minimum=0)
    """The global L2 norm that gradients are clipped to; None leaves them."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """A step schedule with linear warm-up (`docs/zoo.md`, 9.1)."""

    epochs: int = bounded(minimum=1)
    """Passes over the training images."""
    decay_epochs: tuple[int, ...] = bounded(minimum=1)
    """At the start of each of these epochs, counted from 0, the rate is multiplied by `decay_factor`."""
    decay_factor: float = bounded(default=0.1, exclusive_minimum=0)
    """See `decay_epochs`."""
    warmup_iterations: int = bounded(default=500, minimum=0)
    """Iterations over which the rate rises linearly from `warmup_ratio` of itself."""
    warmup_ratio: float = bounded(default=1 / 3, minimum=0, maximum=1)
    """Share of the learning rate at iteration 0."""

    def breaches(self) -> Iterator[tuple[str, str]]:
        """Epochs out of order."""
        if list(self.decay_epochs) != sorted(set(self.decay_epochs)):
            yield "decay_epochs", "must be rising numbers"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One row of the zoo, complete: printing it shows all that decides its figures."""

    name: str = fixed(default="")
    """By what `recipes.read_recipe` finds it, which sets it: a key of `RECIPES`, or ``module:attribute``."""
    model: DetectorOptions
    """The detector; the number of classes comes from the data set."""
    data: DataConfig
    """How images are read and prepared."""
    schedule: ScheduleConfig
    """How long, and how the learning rate moves."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How weights move."""
    global_batch: int = bounded(default=16, minimum=1)
    """Images between two optimiser steps, over all processes; kept when their number changes."""
    precision: Precision = "tf32"
    """Arithmetic of forward and backward; weights stay in float32. TF32 multiplies float32 with 10 bits of
    mantissa on GPUs since 2020 (A100); elsewhere it is fp32."""
    deterministic: bool = False
    """Whether equal steps give equal bits on a GPU, too, which costs time; a CPU's always do. Deformable
    convolution has no such form on GPUs."""
    compile: bool = False
    """Whether backbone, neck and heads run as graphs of `torch.compile`, which needs a compiler in the image
    and minutes at the start. Where it fails the detector runs without, and the log says why."""
    seed: int = bounded(default=0, minimum=0)
    """Of initial weights, epoch order, augmentation and sampling."""
    pretrained: str | None = None
    """URI of the backbone's weights; None trains from scratch."""
    evaluation_kind: EvaluationKind = "bbox"
    """What is measured: COCO's box AP, box and mask AP, the recall of proposals, or VOC's box mAP."""
    evaluation_detections: int | None = bounded(default=None, minimum=1)
    """Best detections of an image that count; None: as many as the detector gives, but at least 100."""
    published: PublishedRow | None = fixed(default=None)
    """The row of the zoo's page; None where nothing is published."""

    def __post_init__(self) -> None:
        """Refuse what breaks a rule, here or in any part."""
        check(self)

    def build(self, *, num_classes: int) -> Detector:
        """The detector with fresh weights, for `num_classes` with the background."""
        return self.model.build(Task(num_classes=num_classes, normalisation=self.data.normalisation))

    @property
    def reference(self) -> dict[str, float]:
        """The published figures under the names of `contract.Results`; empty where none are."""
        return self.published.as_results() if self.published else {}

    @property
    def memory_kind(self) -> MemoryKind:
        """Which peak of the allocator is the memory of its row."""
        return self.published.memory_kind if self.published else "reserved"

    def breaches(self) -> Iterator[tuple[str, str]]:
        """A batch that processes cannot share."""
        if self.global_batch % self.data.images_per_process:
            yield (
                "global_batch",
                f"must be a multiple of data.images_per_process = {self.data.images_per_process}",
            )


def detection_limit(recipe: Recipe) -> int:
    """How many detections of an image COCO's figures of a recipe count."""
    if recipe.evaluation_detections is not None:
        return recipe.evaluation_detections
    return max([_USUAL_DETECTIONS, *_max_detections(recipe.model)])


def _max_detections(part: Any) -> Iterator[int]:
    if isinstance(part, DetectionOptions):
        yield part.max_detections
    for item in fields(part):
        if is_dataclass(value := getattr(part, item.name)):
            yield from _max_detections(value)
