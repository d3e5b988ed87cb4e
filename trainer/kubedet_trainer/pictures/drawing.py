"""Draws objects with class and score on images, and sheets of ground truth next to detections."""

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

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_GOLDEN_RATIO = 0.618034
_PAPER = (250, 250, 250)
_INK = (40, 40, 40)
_GAP = 10
"""Pixels between the pictures of a sheet."""
_TITLE_HEIGHT = 34
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


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One image of a contact sheet."""

    image: Picture
    truth: Marks
    detections: Marks


def class_colour(label: int) -> tuple[int, int, int]:
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
    thickness = max(1, round(max(size) / 320))
    corners = np.round(marks.boxes * factor).astype(int)
    if marks.masks is not None:
        _draw_masks(picture, marks.masks, labels=marks.labels, size=(image.shape[0], image.shape[1]))
    # All frames first, so that no frame crosses a caption.
    for row in order:
        x1, y1, x2, y2 = corners[row].tolist()
        colour = class_colour(int(marks.labels[row]))
        cv2.rectangle(picture, (x1, y1), (x2, y2), colour, 1 if marks.masks is not None else thickness)
    for row in order:
        label = int(marks.labels[row])
        text = classes[label - 1]
        if marks.scores is not None:
            text = f"{text} {marks.scores[row]:.2f}"
        x1, y1 = corners[row, :2].tolist()
        _caption(picture, text, at=(x1 - thickness // 2, y1), colour=class_colour(label))
    return picture


def contact_sheet(
    comparisons: Sequence[Comparison], *, classes: Sequence[str], columns: int = 2, width: int = 400
) -> Picture:
    """Several images, each with its ground truth on the left and its detections on the right.

    Args:
        comparisons: at least one image.
        classes: names of the labels 1, 2, ...
        columns: pairs side by side.
        width: longest side of one picture in pixels.
    """
    pairs = [
        [
            draw_detections(item.image, marks=marks, classes=classes, longest=width)
            for marks in (item.truth, item.detections)
        ]
        for item in comparisons
    ]
    rows = [pairs[start : start + columns] for start in range(0, len(pairs), columns)]
    pair_width = 2 * width + 3 * _GAP
    heights = [max(pair[0].shape[0] for pair in row) + _GAP for row in rows]
    used_columns = min(columns, len(pairs))
    sheet = np.full((_TITLE_HEIGHT + sum(heights), used_columns * pair_width, 3), _PAPER, np.uint8)
    for column in range(used_columns):
        for side, title in enumerate(("ground truth", "detections")):
            left = column * pair_width + _GAP + side * (width + _GAP)
            cv2.putText(sheet, title, (left, _TITLE_HEIGHT - 12), _FONT, 0.5, _INK, 1, cv2.LINE_AA)
    top = _TITLE_HEIGHT
    for row, height in zip(rows, heights, strict=True):
        for column, pair in enumerate(row):
            for side, picture in enumerate(pair):
                left = column * pair_width + _GAP + side * (width + _GAP) + (width - picture.shape[1]) // 2
                sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        top += height
    return sheet


def _draw_masks(picture: Picture, masks: Masks, *, labels: NDArray[Any], size: run_lengths.Size) -> None:
    """Lay a film of colour with a bright edge over each object, the smaller ones on top.

    `size` is what the masks are coded for.
    """
    for row in np.argsort(-run_lengths.areas(masks), kind="stable").tolist():
        _tint(picture, run_lengths.decode(masks[row], size=size), colour=class_colour(int(labels[row])))


def _tint(picture: Picture, mask: run_lengths.Bitmap, *, colour: tuple[int, int, int]) -> None:
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


def _caption(picture: Picture, text: str, *, at: tuple[int, int], colour: tuple[int, int, int]) -> None:
    """A filled tag on top of the box, or inside where the image ends, kept wholly within the picture."""
    scale = min(0.6, max(0.36, max(picture.shape[:2]) / 1400))
    (width, height), baseline = cv2.getTextSize(text, _FONT, scale, 1)
    width, height = width + 4, height + baseline + 2
    left = max(0, min(at[0], picture.shape[1] - width))
    top = at[1] - height if at[1] >= height else max(0, at[1])
    cv2.rectangle(picture, (left, top), (left + width, top + height), colour, cv2.FILLED)
    # Weights of ITU-R BT.601: how bright the tag looks.
    is_bright = float(np.dot(colour, (0.114, 0.587, 0.299))) > 140
    ink = (0, 0, 0) if is_bright else (255, 255, 255)
    cv2.putText(picture, text, (left + 2, top + height - baseline), _FONT, scale, ink, 1, cv2.LINE_AA)
