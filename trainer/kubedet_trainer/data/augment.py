"""Augmentation of colours and geometry: colours, zoom out, crop, in the zoo's order (`docs/zoo.md`, 1.5).

All choices about an image are drawn before any pixel is touched, in the order in which the zoo drew them.
Colours are then changed only where the crop leaves the image visible, and no canvas is made that is cropped
away again; the pixels are the same. Boxes are xyxy with inclusive corners. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from kubedet_trainer.config.recipe import ColourConfig
from kubedet_trainer.data.images import Pixels

FloatPixels = NDArray[np.float32]
"""(H, W, 3) in BGR order, about 0 to 255; colours may leave these bounds."""

_UNCHANGED = (1.0, 1.0)
_ZOOM = (1.0, 4.0)
_CROP_MODES = (1, 0.1, 0.3, 0.5, 0.7, 0.9, 0)
"""1 leaves the image; any other is the least overlap with the crop that every box must have."""
_CROP_TRIES = 50
_CROP_SIDE = 0.3
_CROP_ASPECT = (0.5, 2.0)


class Random(Protocol):
    """What is drawn from; `numpy.random.Generator` is one."""

    def uniform(self, low: float, high: float, /) -> float:
        """A number between the two."""

    def integers(self, high: int, /) -> Any:
        """A whole number below `high`."""

    def permutation(self, count: int, /) -> NDArray[Any]:
        """The numbers below `count` in any order."""


@dataclass(frozen=True, kw_only=True)
class Augmented:
    """An image after augmentation, before it is resized."""

    pixels: FloatPixels
    boxes: NDArray[np.float32]
    """(K, 4), those of the given ones that remained, in their order."""
    kept: NDArray[np.intp]
    """(K,) which ones these are."""


class _Colours(NamedTuple):
    """What is done to the colours; None leaves them."""

    brightness: float | None
    contrast: float | None
    contrast_first: bool
    saturation: float | None
    hue: float | None
    channels: NDArray[Any] | None


class _Patch(NamedTuple):
    """A part of an image, or more than it: x1, y1 inclusive, x2, y2 exclusive."""

    x1: int
    y1: int
    x2: int
    y2: int

    def moved(self, *, left: int, top: int) -> _Patch:
        return _Patch(self.x1 + left, self.y1 + top, self.x2 + left, self.y2 + top)


def augment(
    pixels: Pixels,
    *,
    boxes: NDArray[np.float32],
    colours: ColourConfig,
    fill: Sequence[float] | None,
    random: Random,
) -> Augmented:
    """Change an image at random.

    Args:
        pixels: the image as it was read.
        boxes: at least one of them remains.
        colours: how far colours may change.
        fill: the colour, BGR, around an image that is zoomed out of; None to neither zoom nor crop.
        random: what is drawn from.
    """
    height, width = pixels.shape[:2]
    change = _draw_colours(random, colours)
    if fill is None:
        recoloured = _recolour(pixels.astype(np.float32), change)
        return Augmented(pixels=recoloured, boxes=boxes, kept=np.arange(len(boxes)))
    canvas = _draw_canvas(random, height=height, width=width)
    boxes = boxes - np.array([canvas.x1, canvas.y1] * 2, np.float32)
    patch = _draw_patch(random, height=canvas.y2 - canvas.y1, width=canvas.x2 - canvas.x1, boxes=boxes)
    kept = np.arange(len(boxes))
    if patch is not None:
        kept = np.flatnonzero(_has_centre_of(patch, boxes))
        boxes = boxes[kept]
        boxes[:, :2] = boxes[:, :2].clip(min=patch[:2])
        boxes[:, 2:] = boxes[:, 2:].clip(max=patch[2:])
        boxes -= np.array(patch[:2] * 2, np.float32)
        canvas = patch.moved(left=canvas.x1, top=canvas.y1)
    return Augmented(pixels=_take(pixels, patch=canvas, colours=change, fill=fill), boxes=boxes, kept=kept)


def _draw_colours(random: Random, most: ColourConfig) -> _Colours:
    """What happens to one image; nothing is drawn about what never changes."""
    brightness = (
        random.uniform(-most.brightness, most.brightness) if _happens(random, most.brightness) else None
    )
    contrast_first = _happens(random, most.contrast != _UNCHANGED)
    contrast = _draw_factor(random, most.contrast) if contrast_first else None
    saturation = _draw_factor(random, most.saturation)
    hue = random.uniform(-most.hue, most.hue) if _happens(random, most.hue) else None
    if not contrast_first:
        contrast = _draw_factor(random, most.contrast)
    return _Colours(
        brightness=brightness,
        contrast=contrast,
        contrast_first=contrast_first,
        saturation=saturation,
        hue=hue,
        channels=random.permutation(3) if _happens(random, most.swap_channels) else None,
    )


def _draw_factor(random: Random, bounds: tuple[float, float]) -> float | None:
    return random.uniform(*bounds) if _happens(random, bounds != _UNCHANGED) else None


def _happens(random: Random, may_happen: float) -> bool:
    """A coin's answer, which is asked for only where `may_happen` is not 0."""
    return bool(may_happen) and _coin(random)


def _draw_canvas(random: Random, *, height: int, width: int) -> _Patch:
    """The image, or a larger canvas around it, in the image's coordinates."""
    if _coin(random):
        return _Patch(0, 0, width, height)
    ratio = random.uniform(*_ZOOM)
    left = int(random.uniform(0, width * ratio - width))
    top = int(random.uniform(0, height * ratio - height))
    return _Patch(0, 0, int(width * ratio), int(height * ratio)).moved(left=-left, top=-top)


def _draw_patch(random: Random, *, height: int, width: int, boxes: NDArray[np.float32]) -> _Patch | None:
    """A crop that overlaps every box enough and has the centre of one; None leaves the image whole."""
    corners = boxes.tolist()
    while (least_overlap := _CROP_MODES[int(random.integers(len(_CROP_MODES)))]) != 1:
        for _ in range(_CROP_TRIES):
            new_width = random.uniform(_CROP_SIDE * width, width)
            new_height = random.uniform(_CROP_SIDE * height, height)
            if not _CROP_ASPECT[0] <= new_height / new_width <= _CROP_ASPECT[1]:
                continue
            # Not from 0 on: the zoo gave NumPy's `uniform` one argument, which is its low end, not its high.
            left = _between(width - new_width, 1.0, random)
            top = _between(height - new_height, 1.0, random)
            patch = _Patch(int(left), int(top), int(left + new_width), int(top + new_height))
            if _overlaps_all(patch, corners, least=least_overlap) and _has_centre_of(patch, boxes).any():
                return patch
    return None


def _overlaps_all(patch: _Patch, boxes: list[list[float]], *, least: float) -> bool:
    """Whether the intersection over union with each of the boxes is at least `least`.

    An image tries up to a hundred patches. Most fail at the first box, which plain numbers show fastest.
    """
    return all(_iou(patch, box) >= least for box in boxes)


def _iou(first: Sequence[float], second: Sequence[float]) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0]) + 1
    height = min(first[3], second[3]) - max(first[1], second[1]) + 1
    common = max(width, 0) * max(height, 0)
    return common / (_area(first) + _area(second) - common)


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0] + 1) * (box[3] - box[1] + 1)


def _has_centre_of(patch: _Patch, boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return cast(NDArray[np.bool_], ((centres > patch[:2]) & (centres < patch[2:])).all(axis=1))


def _take(pixels: Pixels, *, patch: _Patch, colours: _Colours, fill: Sequence[float]) -> FloatPixels:
    """The pixels of `patch`, their colours changed, with `fill` where it reaches beyond the image."""
    height, width = pixels.shape[:2]
    x1, y1 = max(patch.x1, 0), max(patch.y1, 0)
    x2, y2 = min(patch.x2, width), min(patch.y2, height)
    visible = _recolour(pixels[y1:y2, x1:x2].astype(np.float32), colours)
    if patch == (x1, y1, x2, y2):
        return visible
    canvas = np.empty((patch.y2 - patch.y1, patch.x2 - patch.x1, 3), np.float32)
    canvas[:] = np.tile(
        np.array(fill, np.float32), (canvas.shape[1], 1)
    )  # rows are copied faster than pixels
    canvas[y1 - patch.y1 : y2 - patch.y1, x1 - patch.x1 : x2 - patch.x1] = visible
    return canvas


def _recolour(pixels: FloatPixels, colours: _Colours) -> FloatPixels:
    """Change the colours in the zoo's order; nothing is clipped to 0 and 255."""
    if colours.brightness is not None:
        pixels += colours.brightness
    if colours.contrast is not None and colours.contrast_first:
        pixels *= colours.contrast
    pixels = _change_hue(pixels, saturation=colours.saturation, hue=colours.hue)
    if colours.contrast is not None and not colours.contrast_first:
        pixels *= colours.contrast
    return pixels if colours.channels is None else pixels[..., colours.channels]


def _change_hue(pixels: FloatPixels, *, saturation: float | None, hue: float | None) -> FloatPixels:
    hsv = cast(FloatPixels, cv2.cvtColor(pixels, cv2.COLOR_BGR2HSV))
    if saturation is not None:
        hsv[..., 1] *= saturation
    if hue is not None:
        degrees = hsv[..., 0] + np.float32(hue)
        degrees[degrees > 360] -= 360
        degrees[degrees < 0] += 360
        hsv[..., 0] = degrees
    return cast(FloatPixels, cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR))


def _between(start: float, end: float, random: Random) -> float:
    """A number between the two, whichever is the larger."""
    return start + (end - start) * random.uniform(0.0, 1.0)


def _coin(random: Random) -> bool:
    return bool(random.integers(2))
