"""Coloured shapes on soft backgrounds: a data set to try everything on, written as COCO, made in seconds.

The class is the shape alone; colour, size, place, turn and background are random, and shapes overlap partly.
The same arguments give the same data set. Imports no torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kubedet_trainer.data import run_lengths
from kubedet_trainer.data.images import Pixels

CLASSES = ("circle", "square", "triangle")
"""What the images show."""

_MAX_SHAPES = 6
_SIZES = (0.12, 0.50)
"""Diameter of the smallest and the largest shape, in shorter sides of the image."""
_MAX_COVERED = 0.35
"""Share of a shape's box that one later shape may cover."""
_SUBPIXEL_BITS = 4
_TURNS = {"square": np.radians(15.0), "triangle": np.radians(20.0)}
_CORNERS = {
    "circle": np.radians(np.arange(0.0, 360.0, 6.0)),
    "square": np.radians([45.0, 135.0, 225.0, 315.0]),
    "triangle": np.radians([90.0, 210.0, 330.0]),
}


@dataclass(frozen=True, kw_only=True)
class ShapesDataset:
    """What to make."""

    images: int = 240
    """Training images."""
    val_images: int = 60
    size: tuple[int, int] = (320, 240)
    """Width and height in pixels."""
    classes: int = len(CLASSES)
    """Categories in the files. Those beyond `CLASSES` are in no image, but a detector that knows them costs
    as much time and memory as one for another data set of so many."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class _Shape:
    name: str
    outline: NDArray[np.float64]
    """(P, 2) x and y of the corners."""
    colour: tuple[float, float, float]

    @property
    def box(self) -> NDArray[np.float64]:
        """x1, y1, x2, y2 around the outline."""
        return np.concatenate([self.outline.min(axis=0), self.outline.max(axis=0)])


def write_shapes(dataset: ShapesDataset, *, folder: Path) -> None:
    """Write ``train2017``, ``val2017`` and ``annotations``, named and laid out as COCO's, into `folder`."""
    (folder / "annotations").mkdir(parents=True)
    for stream, (split, count) in enumerate((("train2017", dataset.images), ("val2017", dataset.val_images))):
        (folder / split).mkdir()
        content = _write_split(dataset, folder=folder / split, count=count, stream=stream)
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def _write_split(dataset: ShapesDataset, *, folder: Path, count: int, stream: int) -> dict[str, Any]:
    width, height = dataset.size
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        # Each image has a stream of its own: a larger data set begins with the images of a smaller one.
        random = np.random.default_rng((dataset.seed, stream, number))
        shapes = _place(random, size=dataset.size)
        name = f"{number:06d}.jpg"
        cv2.imwrite(
            str(folder / name),
            _paint(random, size=dataset.size, shapes=shapes),
            [cv2.IMWRITE_JPEG_QUALITY, 92],
        )
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for shape in shapes:
            record = _annotation(shape, size=dataset.size)
            annotations.append({"id": len(annotations) + 1, "image_id": number, **record})
    return {
        "info": {"description": "Coloured shapes made by kubedet"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": label, "name": name} for label, name in enumerate(_names(dataset), start=1)],
    }


def _names(dataset: ShapesDataset) -> list[str]:
    return [*CLASSES, *(f"class {label}" for label in range(len(CLASSES) + 1, dataset.classes + 1))]


def _annotation(shape: _Shape, *, size: tuple[int, int]) -> dict[str, Any]:
    x1, y1, x2, y2 = shape.box
    # The pixels that it was painted on, by more than half: OpenCV paints half a pixel more than the outline
    # on each side. What another shape hides belongs to it too, as it does to the box.
    mask = _mask(shape.outline, size=size) > 0.5
    area = cv2.contourArea(shape.outline.astype(np.float32))
    return {
        "category_id": CLASSES.index(shape.name) + 1,
        "bbox": np.round([x1, y1, x2 - x1, y2 - y1], 2).tolist(),
        "area": round(float(area), 2),
        "iscrowd": 0,
        "segmentation": {"size": list(mask.shape), "counts": run_lengths.encode(mask).decode()},
    }


def _place(random: np.random.Generator, *, size: tuple[int, int]) -> list[_Shape]:
    """Between one and six shapes wholly inside the image, none hiding much of another."""
    shapes: list[_Shape] = []
    for _ in range(int(random.integers(1, _MAX_SHAPES + 1))):
        shape = _draw_shape(random, size=size)
        if all(_covered(earlier.box, by=shape.box) <= _MAX_COVERED for earlier in shapes):
            shapes.append(shape)
    return shapes


def _draw_shape(random: np.random.Generator, *, size: tuple[int, int]) -> _Shape:
    name = CLASSES[random.integers(len(CLASSES))]
    # Uniform in the logarithm: as many small shapes as large ones.
    radius = np.exp(random.uniform(*np.log(_SIZES))) * min(size) / 2
    angles = _CORNERS[name] + random.uniform(-1, 1) * _TURNS.get(name, 0.0)
    outline = radius * np.stack([np.cos(angles), -np.sin(angles)], axis=1)
    low, high = outline.min(axis=0), outline.max(axis=0)
    outline += random.uniform(-low + 1, np.array(size) - high - 1)
    hue, saturation, value = random.uniform(0, 180), random.uniform(140, 255), random.uniform(150, 255)
    pixel = cv2.cvtColor(np.array([[[hue, saturation, value]]], np.uint8), cv2.COLOR_HSV2BGR)
    blue, green, red = pixel[0, 0].tolist()
    return _Shape(name=name, outline=outline, colour=(blue, green, red))


def _covered(box: NDArray[np.float64], *, by: NDArray[np.float64]) -> float:
    sides = np.minimum(box[2:], by[2:]) - np.maximum(box[:2], by[:2])
    return float(sides.clip(min=0).prod() / (box[2:] - box[:2]).prod())


def _paint(random: np.random.Generator, *, size: tuple[int, int], shapes: list[_Shape]) -> Pixels:
    canvas = _background(random, size=size)
    # A light that falls from above makes the faces less flat.
    light = np.linspace(1.12, 0.82, size[1], dtype=np.float32)[:, None]
    for shape in shapes:
        shadow = cv2.GaussianBlur(_mask(shape.outline + 3.0, size=size), (0, 0), 3.0)
        face = _mask(shape.outline, size=size)
        # Only around the shape, plane by plane: on the whole image this takes ten times as long.
        x1, y1 = np.maximum(shape.box[:2] - 16, 0).astype(int)
        x2, y2 = shape.box[2:].astype(int) + 16
        part = np.s_[y1:y2, x1:x2]
        for channel, colour in enumerate(shape.colour):
            plane = canvas[*part, channel]
            plane *= 1 - 0.45 * shadow[part]
            plane += face[part] * (colour * light[y1:y2] - plane)
    canvas += 4 * random.standard_normal(canvas.shape, dtype=np.float32)
    return canvas.clip(0, 255).astype(np.uint8)


def _background(random: np.random.Generator, *, size: tuple[int, int]) -> NDArray[np.float32]:
    """A gradient between four muted corner colours with soft blotches over it."""
    corners = random.uniform(70, 200, (2, 2, 1)) + random.uniform(-30, 30, (2, 2, 3))
    gradient = cv2.resize(corners.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    coarse = 9 * random.standard_normal((6, 8, 3), dtype=np.float32)
    return np.asarray(gradient + cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC), np.float32)


def _mask(outline: NDArray[np.float64], *, size: tuple[int, int]) -> NDArray[np.float32]:
    """(H, W) share of each pixel within the outline."""
    mask = np.zeros((size[1], size[0]), np.uint8)
    # OpenCV counts from the centre of the first pixel, an outline from its corner.
    points = np.round((outline - 0.5) * 2**_SUBPIXEL_BITS).astype(np.int32)
    cv2.fillPoly(mask, [points], 255, lineType=cv2.LINE_AA, shift=_SUBPIXEL_BITS)
    return mask.astype(np.float32) / np.float32(255)
