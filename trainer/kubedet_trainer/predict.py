"""Detections in images of one's own: pictures to look at, and a COCO file to go on with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from kubedet_trainer import drawing
from kubedet_trainer.config import NormalisationConfig
from kubedet_trainer.data import batches, images, transforms
from kubedet_trainer.data.batches import Item
from kubedet_trainer.data.images import Pixels
from kubedet_trainer.data.transforms import Pipeline
from kubedet_trainer.drawing import Marks
from kubedet_trainer.errors import InvalidInput, MissingInput
from kubedet_trainer.evaluate import DetectionTable, detect
from kubedet_trainer.structures import Batch

DETECTIONS_FILE = "detections.json"
"""Name of the COCO file beside the pictures."""

_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What was written."""

    file: Path
    """The COCO file: images, categories, and every detection as an annotation with a score."""
    pictures: list[Path]
    """Named as the images."""
    num_detections: int
    """Of those that reach the threshold."""


def find_images(source: Path) -> list[Path]:
    """The image that `source` names, or all images in that folder, sorted by name.

    Raises:
        MissingInput: there is none.
    """
    if source.is_file():
        return [source]
    found = sorted(file for file in source.glob("*") if file.suffix.lower() in _SUFFIXES)
    if not found:
        raise MissingInput(f"{source}: no image there, must be an image or a folder of images")
    return found


@torch.inference_mode()
def predict_folder(
    detector: nn.Module,
    *,
    source: Path,
    output: Path,
    classes: Sequence[str],
    category_ids: Sequence[int],
    pipeline: Pipeline,
    normalisation: NormalisationConfig,
    device: torch.device,
    score_threshold: float = 0.5,
) -> Prediction:
    """Detect in an image or a folder of images and write pictures and `DETECTIONS_FILE` into `output`.

    Args:
        detector: has ``detect(images, scale_factors)``; in evaluation mode.
        source: an image or a folder.
        output: folder to write to; made if absent.
        classes: names of the labels 1, 2, ...
        category_ids: their ids in the written file.
        pipeline: as the detector was trained with; flipping is left out.
        normalisation: as the detector was trained with.
        device: where the detector is.
        score_threshold: detections below it are left out.

    Raises:
        MissingInput: there is no image.
        InvalidInput: a file is not a whole image, or `output` is the folder of the images.
    """
    files = find_images(source)
    if output.resolve() == files[0].resolve().parent:
        raise InvalidInput(
            f"{output}: must be another folder than the images', whose names the pictures keep"
        )
    output.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    pictures = []
    for number, file in enumerate(files, start=1):
        pixels = images.read_image(file)
        (table,) = detect(
            detector,
            _batch_of(pixels, image_id=number, pipeline=pipeline),
            normalisation=normalisation,
            device=device,
        )
        table = table.above(score_threshold)
        records.append(
            {"id": number, "file_name": file.name, "width": pixels.shape[1], "height": pixels.shape[0]}
        )
        annotations += table.to_coco(category_ids)
        pictures.append(output / file.name)
        cv2.imwrite(
            str(pictures[-1]), drawing.draw_detections(pixels, marks=marks_of(table), classes=classes)
        )
    content = {
        "images": records,
        "annotations": [{"id": number, **record} for number, record in enumerate(annotations, start=1)],
        "categories": [
            {"id": number, "name": name} for number, name in zip(category_ids, classes, strict=True)
        ],
    }
    file = output / DETECTIONS_FILE
    file.write_text(json.dumps(content, indent=1))
    return Prediction(file=file, pictures=pictures, num_detections=len(annotations))


def marks_of(table: DetectionTable) -> Marks:
    """The detections of one image, as `drawing` takes them."""
    return Marks(boxes=table.boxes, labels=table.labels, scores=table.scores)


def _batch_of(pixels: Pixels, *, image_id: int, pipeline: Pipeline) -> Batch:
    """A batch of one image without ground truth."""
    sample = transforms.transform(pixels, boxes=np.zeros((0, 4), np.float32), pipeline=pipeline, flip=False)
    item = Item(image_id=image_id, sample=sample, labels=np.zeros(0, np.int32))
    return batches.collate([item], slots=1, pad_multiple=pipeline.pad_multiple)
