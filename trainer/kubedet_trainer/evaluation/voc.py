"""PASCAL VOC's figure: mean average precision at an overlap of one half, as the zoo took it.

A detection is right when the object of its class that it overlaps most is not taken yet by one that scores
higher. One that falls on a difficult object counts neither way.

Source: Everingham et al., 2010; `docs/zoo.md`, 10.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kubedet_trainer.data.arrays import Truth
from kubedet_trainer.evaluation.detections import DetectionTable
from kubedet_trainer.evaluation.overlaps import box_iou, by_image
from kubedet_trainer.evaluation.scores import RECALLS, ClassScores, Matching, Scores

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
    rows: NDArray[np.int64]
    """(M,) of each in `Truth`."""

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
            rows=order,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """What each further detection of one class, from the best one on, brings."""

    recalls: NDArray[np.float64]
    """(D,) share of the objects found so far."""
    precisions: NDArray[np.float64]
    """(D,) share of the detections so far that are right."""

    def sampled(self, recalls: NDArray[np.float64]) -> NDArray[np.float64]:
        """The best precision at each of these recalls or any higher one, 0 where none is reached."""
        return np.append(self._best(), 0)[np.searchsorted(self.recalls, recalls)]

    def _best(self) -> NDArray[np.float64]:
        return np.maximum.accumulate(self.precisions[::-1])[::-1]

    def area(self) -> float:
        """What lies below it."""
        return float((np.diff(self.recalls, prepend=0) * self._best()).sum())


class VocScorer:
    """Compares detections with the annotations of a split."""

    def __init__(self, truth: Truth) -> None:
        self._objects = Objects.of(truth)
        self._num_classes = len(truth.category_ids)

    def score(self, detections: DetectionTable) -> Scores:
        """``boxAP``, the mean over the classes that have an object, in percent; absent where none has."""
        matching = match(detections, truth=self._objects)
        curves = precision_curves(detections, truth=self._objects, matching=matching)
        classes = [_class_scores(curves.get(label)) for label in range(1, self._num_classes + 1)]
        precisions = [average_precision(curve) for curve in curves.values()]
        samples = [found.curve for found in classes if found.curve is not None]
        return Scores(
            figures={"boxAP": 100 * float(np.mean(precisions))} if precisions else {},
            classes=classes,
            curves={"0.50": np.mean(samples, axis=0)} if samples else {},
            matching=matching,
        )


def _class_scores(curve: Curve | None) -> ClassScores:
    if curve is None:
        return ClassScores(figures={}, curve=None)
    return ClassScores(figures={"boxAP": 100 * average_precision(curve)}, curve=curve.sampled(RECALLS))


def precision_curves(detections: DetectionTable, *, truth: Objects, matching: Matching) -> dict[int, Curve]:
    """The curve of each label that has an object which is not difficult."""
    order = np.argsort(-detections.scores, kind="stable")
    counts = np.bincount(truth.labels[~truth.difficult])
    curves = {}
    for label in np.flatnonzero(counts).tolist():
        own = order[detections.labels[order] == label]
        num_right = np.cumsum(matching.found[own] != _UNMATCHED)
        num_counted = np.cumsum(matching.is_counted[own])
        curves[label] = Curve(
            recalls=num_right / counts[label], precisions=num_right / np.maximum(num_counted, 1)
        )
    return curves


def average_precision(curve: Curve, *, form: Literal["11 points", "area"] = "11 points") -> float:
    """The mean of the best precision at recalls of at least 0, 0.1, ..., 1, or the area below the curve.

    VOC took the points until 2009 and the area from 2010 on; the zoo's figures are of 2007.
    """
    if form == "area":
        return curve.area()
    # In floating point 3 * 0.1 exceeds 0.3, and so the zoo counted; `arange` reproduces it.
    return float(curve.sampled(np.arange(0, 1.001, 0.1)).mean())


def match(detections: DetectionTable, *, truth: Objects) -> Matching:
    """Let each object be found by the best of the detections that overlap it more than any other object."""
    nearest = _nearest(detections, truth=truth)
    order = np.argsort(-detections.scores, kind="stable")
    is_first = np.zeros(len(nearest), np.bool_)
    is_first[order[np.unique(nearest[order], return_index=True)[1]]] = True
    is_ignored = np.zeros(len(nearest), np.bool_)
    is_matched = nearest != _UNMATCHED
    is_ignored[is_matched] = truth.difficult[nearest[is_matched]]
    is_right = is_first & is_matched & ~is_ignored
    found = np.full(len(nearest), _UNMATCHED, np.int64)
    found[is_right] = truth.rows[nearest[is_right]]
    return Matching(found=found, is_counted=~is_ignored)


def _nearest(detections: DetectionTable, *, truth: Objects) -> NDArray[np.int64]:
    """(D,) row in `truth` of the object of the same image and class that overlaps each detection most."""
    matches = np.full(len(detections.labels), _UNMATCHED, np.int64)
    for rows, objects in by_image(detections.image_ids, truth.image_ids):
        overlaps = box_iou(detections.boxes[rows], truth.boxes[objects])
        overlaps[detections.labels[rows, None] != truth.labels[objects]] = _UNMATCHED
        best = overlaps.argmax(axis=1)
        is_matched = overlaps[np.arange(len(best)), best] >= _OVERLAP
        matches[rows[is_matched]] = objects.start + best[is_matched]
    return matches
