"""Detects objects in a user's images: pictures to look at, and a COCO file for further use."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from kubedet_trainer.data import batches, images, transforms
from kubedet_trainer.data.batches import Item
from kubedet_trainer.data.images import Pixels
from kubedet_trainer.errors import InvalidInput, MissingInput
from kubedet_trainer.evaluation.detections import DetectionTable
from kubedet_trainer.evaluation.evaluate import detect
from kubedet_trainer.inference.trained import TrainedDetector
from kubedet_trainer.reports import drawing
from kubedet_trainer.reports.drawing import Marks

DETECTIONS_FILE = "detections.json"
"""Name of the COCO file in the folder of the pictures."""

_LONGEST_SIDES = {
    **dict.fromkeys((".jpeg", ".jpg"), 65_500),
    **dict.fromkeys((".bmp", ".png", ".tif", ".tiff"), 1_000_000),
    ".webp": 16_383,
}
"""Formats in which pictures are written, with the most pixels along a side that OpenCV writes. Others become
JPEG or, if that is too small, PNG, whose suffix is added to their names."""
_NAME_BYTES = 255
"""Of the longest name that Linux's file systems have."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What was written."""

    file: Path
    """The COCO file: images, categories, and every detection as an annotation with a score."""
    pictures: list[Path]
    """Named as the images."""
    num_detections: int
    """Of those that reach the threshold."""
    left_out: list[str]
    """Files that are no whole images, each with the reason; the others are done all the same."""


def find_images(source: Path) -> list[Path]:
    """The image that `source` names, or all images in that folder, sorted by name.

    Raises:
        MissingInput: there is none.
    """
    if source.is_file():
        return [source]
    found = sorted(file for file in source.glob("*") if file.suffix.lower() in images.SUFFIXES)
    if not found:
        raise MissingInput(f"{source}: no image there, must be an image or a folder of images")
    return found


@torch.inference_mode()
def predict_folder(
    detector: TrainedDetector, *, source: Path, output: Path, score_threshold: float = 0.5
) -> Prediction:
    """Detect in an image or a folder of images and write pictures and `DETECTIONS_FILE` into `output`.

    The ids of the categories in the file are the labels 1, 2, ...; a checkpoint knows only their names.

    Args:
        detector: as `inference` loads it.
        source: an image or a folder.
        output: folder to write to; made if absent.
        score_threshold: detections below it are left out.

    Raises:
        MissingInput: there is no image.
        InvalidInput: `output` is the folder of the images, or the detector needs proposals.
    """
    if detector.recipe.data.num_proposals is not None:
        raise InvalidInput(
            f"recipe: {detector.recipe.name} needs the proposals of its images, must be one that makes "
            "its own; `kubedet evaluate` takes them for the validation split"
        )
    files = find_images(source)
    if output.resolve() == files[0].resolve().parent:
        raise InvalidInput(
            f"{output}: must differ from the folder of the images, because the pictures keep their names"
        )
    output.mkdir(parents=True, exist_ok=True)
    labels = range(1, len(detector.classes) + 1)
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    pictures: list[Path] = []
    left_out: list[str] = []
    for file in files:
        pixels = images.read(file, max_pixels=detector.recipe.data.max_image_pixels)
        if isinstance(pixels, images.ImageFlaw):
            left_out.append(f"{file}: {pixels.message} [{pixels.rule}]")
            continue
        number = len(records) + 1
        table = _detect(detector, pixels, image_id=number).above(score_threshold)
        height, width = pixels.shape[:2]
        records.append({"id": number, "file_name": file.name, "width": width, "height": height})
        annotations += table.to_coco(labels)
        picture = drawing.draw_detections(pixels, marks=marks_of(table), classes=detector.classes)
        pictures.append(_write(picture, output / file.name))
    content = {
        "images": records,
        "annotations": [{"id": number, **record} for number, record in enumerate(annotations, start=1)],
        "categories": [
            {"id": label, "name": name} for label, name in zip(labels, detector.classes, strict=True)
        ],
    }
    (output / DETECTIONS_FILE).write_text(json.dumps(content, indent=1))
    return Prediction(
        file=output / DETECTIONS_FILE,
        pictures=pictures,
        num_detections=len(annotations),
        left_out=left_out,
    )


def _write(picture: Pixels, file: Path) -> Path:
    suffix = file.suffix.lower()
    longest = _LONGEST_SIDES.get(suffix)
    if longest is None or max(picture.shape) > longest:
        suffix = ".jpg" if max(picture.shape) <= _LONGEST_SIDES[".jpg"] else ".png"
        name = f"{file.name}{suffix}"
        file = file.with_name(name) if len(os.fsencode(name)) <= _NAME_BYTES else file.with_suffix(suffix)
    # OpenCV's own writing refuses some names that file systems have.
    file.write_bytes(cv2.imencode(suffix, picture)[1].tobytes())
    return file


def marks_of(table: DetectionTable) -> Marks:
    """The detections of one image, as `drawing` takes them."""
    return Marks(boxes=table.boxes, labels=table.labels, scores=table.scores, masks=table.masks)


def _detect(detector: TrainedDetector, pixels: Pixels, *, image_id: int) -> DetectionTable:
    """What is found in one image that belongs to no data set."""
    pipeline = detector.pipeline
    sample = transforms.transform(pixels, boxes=np.zeros((0, 4), np.float32), pipeline=pipeline, flip=False)
    item = Item(
        image_id=image_id,
        original_size=(pixels.shape[0], pixels.shape[1]),
        sample=sample,
        labels=np.zeros(0, np.int32),
    )
    (table,) = detect(
        detector.model,
        batches.collate([item], slots=1, pad_multiple=pipeline.pad_multiple),
        device=detector.device,
    )
    return table
