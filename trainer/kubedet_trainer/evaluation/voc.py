"""PASCAL VOC's figure: mean average precision at an overlap of one half, as the zoo took it.

A detection is right when the object of its class that it overlaps most is not taken yet by one that scores
higher. One that falls on a difficult object counts neither way.

Source: Everingham et al., 2010; `docs/zoo.md`, 10.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kubedet_trainer.data.arrays import Truth
from kubedet_trainer.evaluation.detections import DetectionTable
from kubedet_trainer.evaluation.overlaps import box_iou

_OVERLAP = 0.5
_UNMATCHED = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class Objects:
    """M objects of many images; those of one image lie together, the difficult ones last."""

    image_ids: NDArray[np.int64]
    """(M,)"""
    labels: NDArray[np.int64]
    """(M,) 1 and up."""
    boxes: NDArray[np.float32]
    """(M, 4) xyxy with inclusive corners."""
    difficult: NDArray[np.bool_]
    """(M,)"""

    @classmethod
    def of(cls, truth: Truth) -> Objects:
        """What annotations say; ignored objects and crowds are the difficult ones."""
        difficult = truth.ignored | truth.crowd
        image_ids = truth.image_ids[truth.rows]
        order = np.lexsort((difficult, image_ids))
        boxes = truth.boxes[order]
        boxes[:, 2:] += boxes[:, :2] - 1
        return cls(
            image_ids=image_ids[order],
            labels=truth.labels[order],
            boxes=boxes.astype(np.float32),
            difficult=difficult[order],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """What each further detection of one class, from the best one on, brings."""

    recalls: NDArray[np.float64]
    """(D,) share of the objects found so far."""
    precisions: NDArray[np.float64]
    """(D,) share of the detections so far that are right."""


class VocScorer:
    """Compares detections with the annotations of a split."""

    def __init__(self, truth: Truth) -> None:
        self._objects = Objects.of(truth)

    def score(self, detections: DetectionTable) -> dict[str, float]:
        """``boxAP``, the mean over the classes that have an object, in percent; absent where none has."""
        precisions = [
            average_precision(curve) for curve in precision_curves(detections, truth=self._objects).values()
        ]
        return {"boxAP": 100 * float(np.mean(precisions))} if precisions else {}


def precision_curves(detections: DetectionTable, *, truth: Objects) -> dict[int, Curve]:
    """The curve of each label that has an object which is not difficult."""
    matches = _match(detections, truth=truth)
    order = np.argsort(-detections.scores, kind="stable")
    counts = np.bincount(truth.labels[~truth.difficult])
    curves = {}
    for label in np.flatnonzero(counts).tolist():
        matched = matches[order[detections.labels[order] == label]]
        is_ignored = (matched != _UNMATCHED) & truth.difficult[matched]
        is_first = np.zeros(len(matched), np.bool_)
        is_first[np.unique(matched, return_index=True)[1]] = True
        right = is_first & (matched != _UNMATCHED) & ~is_ignored
        num_right = np.cumsum(right)
        num_counted = np.cumsum(~is_ignored)
        curves[label] = Curve(
            recalls=num_right / counts[label], precisions=num_right / np.maximum(num_counted, 1)
        )
    return curves


def average_precision(curve: Curve, *, form: Literal["11 points", "area"] = "11 points") -> float:
    """The mean of the best precision at recalls of at least 0, 0.1, ..., 1, or the area below the curve.

    VOC took the points until 2009 and the area from 2010 on; the zoo's figures are of 2007.
    """
    # The best precision at this recall or any higher one.
    best = np.maximum.accumulate(curve.precisions[::-1])[::-1]
    if form == "area":
        return float((np.diff(curve.recalls, prepend=0) * best).sum())
    # In floating point 3 * 0.1 exceeds 0.3, and so the zoo counted; `arange` reproduces it.
    starts = np.searchsorted(curve.recalls, np.arange(0, 1.001, 0.1))
    return float(np.append(best, 0)[starts].mean())


def _match(detections: DetectionTable, *, truth: Objects) -> NDArray[np.int64]:
    """(D,) row in `truth` of the object of the same image and class that overlaps each detection most."""
    matches = np.full(len(detections.labels), _UNMATCHED, np.int64)
    for rows, objects in _by_image(detections.image_ids, truth.image_ids):
        overlaps = box_iou(detections.boxes[rows], truth.boxes[objects])
        overlaps[detections.labels[rows, None] != truth.labels[objects]] = _UNMATCHED
        best = overlaps.argmax(axis=1)
        is_matched = overlaps[np.arange(len(best)), best] >= _OVERLAP
        matches[rows[is_matched]] = objects.start + best[is_matched]
    return matches


def _by_image(
    image_ids: NDArray[np.int64], object_image_ids: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], slice]]:
    """For each image with detections and objects the rows of the one and the part of the other."""
    order = np.argsort(image_ids, kind="stable")
    numbers, starts = np.unique(image_ids[order], return_index=True)
    ends = np.append(starts[1:], len(order))
    first = np.searchsorted(object_image_ids, numbers, side="left")
    last = np.searchsorted(object_image_ids, numbers, side="right")
    for index in np.flatnonzero(last > first):
        yield order[starts[index] : ends[index]], slice(int(first[index]), int(last[index]))
