"""Resize, flip and place an image with its boxes, as the zoo's pipelines did, before normalisation.

Normalisation happens later, on the device: until then a pixel takes one byte a channel (four after
augmentation), and flipping gives the same as flipping the normalised image. Boxes are xyxy with inclusive
corners. Imports no torch.

Source: `docs/zoo.md`, 1.1, and 1.5 for what is stretched.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from kubedet_trainer.config import ColourConfig, DataConfig
from kubedet_trainer.data.augment import FloatPixels, Random
from kubedet_trainer.data.columns import MAX_PIXELS
from kubedet_trainer.data.images import Pixels

Boxes = NDArray[np.float32]
"""(K, 4) xyxy in pixels."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """What happens to each image of a split."""

    scale: tuple[int, int] = (1333, 800)
    """Bounds for the longer and the shorter side; the image is scaled to reach the nearer one."""
    keep_aspect: bool = True
    """False stretches every image to exactly `scale`, which is (width, height) then."""
    pad_multiple: int = 32
    """Each padded side becomes a multiple of this: the coarsest stride of the pyramid's bottom-up part."""
    flip_probability: float = 0.0
    """Of mirroring left and right; 0.5 in the zoo's training, 0 in its tests."""
    scale_jitter: tuple[float, float] = (1.0, 1.0)
    """Bounds of the factor of `scale` that is drawn for each image in training."""
    colours: ColourConfig = ColourConfig()
    """How far the colours of an image may change in training."""
    zoom_fill: tuple[float, float, float] | None = None
    """The colour, BGR, around images that the single shot detector's augmentation zooms out of; None for no
    such augmentation."""
    max_pixels: int = MAX_PIXELS
    """Of an image in its file; larger ones are refused before they are decoded."""

    @classmethod
    def of_training(cls, data: DataConfig) -> Pipeline:
        """What a recipe does to the images that it trains on."""
        mean = data.normalisation.mean
        mean_bgr = (mean[2], mean[1], mean[0]) if data.normalisation.to_rgb else mean
        return cls(
            scale=data.scale,
            keep_aspect=data.keep_aspect,
            pad_multiple=data.pad_multiple,
            flip_probability=data.flip_probability,
            scale_jitter=data.scale_jitter,
            colours=data.colours,
            zoom_fill=mean_bgr if data.augmentation == "ssd" else None,
            max_pixels=data.max_image_pixels,
        )

    @property
    def augments(self) -> bool:
        """Whether training changes more of an image than its size and its sides."""
        return self.zoom_fill is not None or self.colours != ColourConfig()

    def draw_jitter(self, random: Random) -> float:
        """The factor of `scale` for one image of training; drawn only where it may differ from 1."""
        return 1.0 if self.scale_jitter == (1.0, 1.0) else random.uniform(*self.scale_jitter)

    @classmethod
    def of_validation(cls, data: DataConfig) -> Pipeline:
        """What a recipe does to the images that it is measured on."""
        return cls(
            scale=data.scale,
            keep_aspect=data.keep_aspect,
            pad_multiple=data.pad_multiple,
            max_pixels=data.max_image_pixels,
        )


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An image with all that is decided about its place in a batch; it is resized when it is drawn there."""

    pixels: Pixels | FloatPixels
    """(h, w, 3) before resizing."""
    size: tuple[int, int]
    """Height and width after resizing."""
    flip: bool
    """Whether it is then mirrored left to right."""
    boxes: Boxes
    """After both."""
    scale_factors: tuple[float, float, float, float]
    """Of x1, y1, x2 and y2."""

    def draw(self, target: Pixels | FloatPixels) -> None:
        """Resize and mirror the pixels into `target`, (H, W, 3) of this `size`, a part of a larger one."""
        height, width = self.size
        if self.flip:
            resized = cv2.resize(self.pixels, (width, height), interpolation=cv2.INTER_LINEAR)
            cv2.flip(resized, 1, dst=target)
        else:
            cv2.resize(self.pixels, (width, height), dst=target, interpolation=cv2.INTER_LINEAR)


def scale_factor(size: tuple[int, int], *, scale: tuple[int, int]) -> float:
    """The unrounded factor that fits (height, width) into (longer, shorter), keeping the ratio."""
    return min(max(scale) / max(size), min(scale) / min(size))


def scaled_size(size: tuple[int, int], *, factor: float) -> tuple[int, int]:
    """(height, width) after resizing, rounded half up; a side never vanishes."""
    return max(int(size[0] * factor + 0.5), 1), max(int(size[1] * factor + 0.5), 1)


def padded_size(sizes: list[tuple[int, int]], *, multiple: int) -> tuple[int, int]:
    """(height, width) of a batch: each image padded to the multiple, then all to the largest."""
    height, width = np.max(sizes, axis=0).tolist()
    return -(-height // multiple) * multiple, -(-width // multiple) * multiple


def transform(
    pixels: Pixels | FloatPixels, *, boxes: Boxes, pipeline: Pipeline, flip: bool, jitter: float = 1.0
) -> Sample:
    """What resizing to `jitter` times the pipeline's scale and mirroring if `flip` make of an image.

    `jitter` has no effect where images are stretched to one size. Boxes are scaled by the unrounded factors
    and mirrored about W - 1, then clipped to the image; they may touch W and H themselves, a habit of the zoo
    until March 2019.
    """
    before = (pixels.shape[0], pixels.shape[1])
    if pipeline.keep_aspect:
        factor = jitter * scale_factor(before, scale=pipeline.scale)
        factors = (factor, factor, factor, factor)
        height, width = scaled_size(before, factor=factor)
    else:
        width, height = pipeline.scale
        factors = (width / before[1], height / before[0]) * 2
    boxes = boxes * np.array(factors, np.float32)
    if flip:
        boxes[:, [0, 2]] = width - 1 - boxes[:, [2, 0]]
    limit = np.array([width, height, width, height], np.float32)
    return Sample(
        pixels=pixels, size=(height, width), flip=flip, boxes=boxes.clip(0, limit), scale_factors=factors
    )
