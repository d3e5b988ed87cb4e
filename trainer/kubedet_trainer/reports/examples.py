"""Pictures of a report: the best and the worst images, their objects next to what was detected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from kubedet_trainer.data import images
from kubedet_trainer.data.splits import Split
from kubedet_trainer.evaluation.analysis import Analysis, ImageAnalysis, Verdicts
from kubedet_trainer.evaluation.detections import DetectionTable
from kubedet_trainer.evaluation.scores import Matching
from kubedet_trainer.reports import drawing
from kubedet_trainer.reports.drawing import Marks, Picture

_SIDE = 480
"""Longest side of a drawn image in pixels."""
_GAP = 6
_QUALITIES = (82, 65, 45, 25)
_ALL_BYTES = 1_100_000
"""All pictures together, so that a page is below 2 MB."""
_FOUND, _WRONG, _MISSED = (108, 164, 48), (77, 72, 229), (13, 162, 242)
"""Blue, green and red of the page's key."""


def draw_examples(
    split: Split,
    table: DetectionTable,
    *,
    matching: Matching,
    analysis: Analysis,
    verdicts: Verdicts,
    classes: Sequence[str],
) -> dict[str, bytes]:
    """JPEGs of the images that `analysis` calls the best and the worst, ``best-1``, ``worst-1`` and so on."""
    drawn = {
        f"{name}-{number}": _draw(split, table, image, matching=matching, verdicts=verdicts, classes=classes)
        for name, chosen in (("best", analysis.bestImages), ("worst", analysis.worstImages))
        for number, image in enumerate(chosen, start=1)
    }
    return _compress(drawn)


def _draw(
    split: Split,
    table: DetectionTable,
    image: ImageAnalysis,
    *,
    matching: Matching,
    verdicts: Verdicts,
    classes: Sequence[str],
) -> Picture:
    annotations, truth = split.annotations, split.annotations.truth
    assert truth is not None, "an evaluated split has its truth"
    row = int(np.flatnonzero(annotations.image_ids == image.image)[0])
    pixels = images.read_image(split.folder / annotations.file_name(row))
    objects = np.flatnonzero((truth.rows == row) & ~truth.crowd & ~truth.ignored)
    right, wrong = (rows[table.image_ids[rows] == image.image] for rows in (verdicts.right, verdicts.wrong))
    boxes = truth.boxes[objects]
    boxes[:, 2:] += boxes[:, :2] - 1
    is_found = np.isin(objects, matching.found[right])
    shown = np.concatenate([right, wrong])
    sides = (
        Marks(
            boxes=boxes,
            labels=truth.labels[objects],
            colours=[_FOUND if found else _MISSED for found in is_found],
        ),
        Marks(
            boxes=table.boxes[shown],
            labels=table.labels[shown],
            scores=table.scores[shown],
            masks=None if table.masks is None else table.masks[shown],
            colours=[_FOUND] * len(right) + [_WRONG] * len(wrong),
        ),
    )
    left, other = (
        drawing.draw_detections(pixels, marks=marks, classes=classes, longest=_SIDE) for marks in sides
    )
    gap = np.full((left.shape[0], _GAP, 3), 255, np.uint8)
    return np.concatenate([left, gap, other], axis=1)


def _compress(pictures: Mapping[str, Picture]) -> dict[str, bytes]:
    """JPEGs of the best quality with which all of them are small enough."""
    encoded: dict[str, bytes] = {}
    for quality in _QUALITIES:
        options = [cv2.IMWRITE_JPEG_QUALITY, quality]
        encoded = {
            name: cv2.imencode(".jpg", picture, options)[1].tobytes() for name, picture in pictures.items()
        }
        if sum(map(len, encoded.values())) <= _ALL_BYTES:
            break
    return encoded
