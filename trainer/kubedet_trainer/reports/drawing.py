"""Draws objects on images, each with its class and score; no label covers another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kubedet_trainer.data import run_lengths

Picture = NDArray[np.uint8]
"""(H, W, 3) in BGR order, as OpenCV reads and writes."""

Masks = Sequence[bytes] | NDArray[np.object_]
"""Run-length codes, see `segmentation`."""

Colour = tuple[int, int, int]
"""Blue, green and red, each from 0 to 255."""

_Area = tuple[int, int, int, int]
"""x1, y1, x2, y2 of a label."""

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_GOLDEN_RATIO = 0.618034
_LINE = 2
"""Pixels that a frame is at least wide."""
_FILM = 0.45
"""How much of the colour over a mask is the class's."""
_EDGE_LIGHT = 0.55
"""How much of the way to white the edge of a mask is."""


@dataclass(frozen=True, kw_only=True)
class Marks:
    """What to draw on one image, in its own pixels."""

    boxes: NDArray[Any]
    """(K, 4) xyxy."""
    labels: NDArray[Any]
    """(K,) 1 and up."""
    scores: NDArray[Any] | None = None
    """(K,); None for ground truth."""
    masks: Masks | None = None
    """K for the image's own size; None where there are boxes only."""
    colours: Sequence[Colour] | None = None
    """K; None for that of each one's class."""

    def colour(self, row: int) -> Colour:
        """What one of them is drawn in."""
        return class_colour(int(self.labels[row])) if self.colours is None else self.colours[row]


def class_colour(label: int) -> Colour:
    """BGR of a label: hues a golden section apart, so that any first few classes differ well."""
    hue = int((label * _GOLDEN_RATIO) % 1 * 180)
    blue, green, red = cv2.cvtColor(np.array([[[hue, 210, 235]]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return blue, green, red


def draw_detections(
    image: Picture, *, marks: Marks, classes: Sequence[str], longest: int | None = None
) -> Picture:
    """A copy of `image` with each mask, box, class's name and score, the best ones on top.

    Args:
        image: stays as it is.
        marks: what to draw.
        classes: names of the labels 1, 2, ...
        longest: resize to this longest side first, which keeps lines and text sharp; None keeps the size.
    """
    factor = 1.0 if longest is None else longest / max(image.shape[:2])
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    picture = (
        image.copy() if factor == 1 else np.asarray(cv2.resize(image, size, interpolation=method), np.uint8)
    )
    order = np.arange(len(marks.boxes)) if marks.scores is None else np.argsort(marks.scores)
    thickness = max(_LINE, round(max(size) / 320))
    corners = np.round(marks.boxes * factor).astype(int)
    if marks.masks is not None:
        _draw_masks(picture, marks, size=(image.shape[0], image.shape[1]))
    # All frames first, so that no frame crosses a caption.
    for row in order.tolist():
        x1, y1, x2, y2 = corners[row].tolist()
        cv2.rectangle(picture, (x1, y1), (x2, y2), marks.colour(row), thickness)
    taken: list[_Area] = []
    for row in order[::-1].tolist():
        text = classes[int(marks.labels[row]) - 1]
        if marks.scores is not None:
            text = f"{text} {marks.scores[row]:.2f}"
        x1, y1, x2, y2 = corners[row].tolist()
        half = thickness // 2
        box = (x1 - half, y1 - half, x2 + half, y2 + half)
        taken += _caption(picture, text, box=box, taken=taken, colour=marks.colour(row))
    return picture


def _draw_masks(picture: Picture, marks: Marks, *, size: run_lengths.Size) -> None:
    """Lay a film of colour with a bright edge over each object, the smaller ones on top.

    `size` is what the masks are coded for.
    """
    assert marks.masks is not None
    for row in np.argsort(-run_lengths.areas(marks.masks), kind="stable").tolist():
        _tint(picture, run_lengths.decode(marks.masks[row], size=size), colour=marks.colour(row))


def _tint(picture: Picture, mask: run_lengths.Bitmap, *, colour: Colour) -> None:
    size = (picture.shape[1], picture.shape[0])
    opacity = cv2.resize(mask * np.uint8(255), size, interpolation=cv2.INTER_LINEAR)
    left, top, width, height = cv2.boundingRect(opacity)
    part = picture[top : top + height, left : left + width]
    film = opacity[top : top + height, left : left + width, None] * np.float32(_FILM / 255)
    part[:] = part + (np.array(colour, np.float32) - part) * film
    inside = np.asarray(opacity > 127, np.uint8)
    contours, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    edge = np.add(colour, _EDGE_LIGHT * (255 - np.array(colour))).tolist()
    cv2.drawContours(picture, contours, -1, edge, max(1, round(max(size) / 500)), cv2.LINE_AA)


def _caption(
    picture: Picture, text: str, *, box: _Area, taken: Sequence[_Area], colour: Colour
) -> list[_Area]:
    """A filled tag at its box, and where it lies; none where it would cover one of those in `taken`."""
    scale = min(0.6, max(0.36, max(picture.shape[:2]) / 1000))
    (width, height), baseline = cv2.getTextSize(text, _FONT, scale, 1)
    width, height = width + 4, height + baseline + 2
    area = _find_room(picture, (width, height), box=box, taken=taken)
    if area is None:
        return []
    left, top, right, bottom = area
    cv2.rectangle(picture, (left, top), (right, bottom), colour, cv2.FILLED)
    # Weights of ITU-R BT.601: how bright the tag looks.
    is_bright = float(np.dot(colour, (0.114, 0.587, 0.299))) > 140
    ink = (0, 0, 0) if is_bright else (255, 255, 255)
    cv2.putText(picture, text, (left + 2, bottom - baseline), _FONT, scale, ink, 1, cv2.LINE_AA)
    return [area]


def _find_room(
    picture: Picture, size: tuple[int, int], *, box: _Area, taken: Sequence[_Area]
) -> _Area | None:
    """The first free place of this width and height: above the box, below or inside it, left or right."""
    (width, height), (x1, y1, x2, y2) = size, box
    most_left, most_top = picture.shape[1] - width, picture.shape[0] - height
    for left in (x1, x2 - width):
        for top, is_inside in ((y1 - height, False), (y2, False), (y1, True), (y2 - height, True)):
            if not is_inside and not 0 <= top <= most_top:
                continue
            x, y = max(0, min(left, most_left)), max(0, min(top, most_top))
            area = (x, y, x + width, y + height)
            if not any(_overlap(area, other) for other in taken):
                return area
    return None


def _overlap(area: _Area, other: _Area) -> bool:
    return area[0] <= other[2] and other[0] <= area[2] and area[1] <= other[3] and other[1] <= area[3]
