"""What the figures of a split consist of: each class, the best threshold, kinds of errors, the images.

Everything follows from what the scorer matched, so it agrees with the average precision and costs less than a
hundredth of it. Kinds of errors are those of Bolya et al., 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kubedet_trainer.data.arrays import Truth
from kubedet_trainer.evaluation import errors
from kubedet_trainer.evaluation.detections import DetectionTable
from kubedet_trainer.evaluation.errors import Explained
from kubedet_trainer.evaluation.scores import Scores

_USUAL_THRESHOLD = 0.5
"""Where nothing was found that could choose a better one."""
_DIGITS = 4
_EXAMPLES = 6
"""Images that are called the best, and as many the worst."""


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """The score threshold at which F1 is highest, and what it gives at an overlap of one half."""

    threshold: float
    precision: float
    """In percent, as the next two."""
    recall: float
    f1: float


@dataclass(frozen=True, kw_only=True)
class ClassAnalysis:
    """One class."""

    name: str
    objects: int
    """That count: crowds and ignored objects do not."""
    found: int
    """Of these, at any score and an overlap of one half."""
    figures: dict[str, float]
    """Average precision by name, in percent."""
    best: OperatingPoint | None = None
    """Chosen for this class alone; None where nothing was found."""
    curve: list[float] = field(default_factory=list)
    """Precision, from 0 to 1, at recalls 0, 0.01, ..., 1 and an overlap of one half."""


@dataclass(frozen=True, kw_only=True)
class ErrorCounts:
    """Detections that score at least `threshold`, and all objects, each for one reason.

    ``detections == right + sum(wrong.values())`` and ``objects == right + blamed + missed``.
    """

    threshold: float
    detections: int
    right: int
    wrong: dict[str, int]
    """By kind of error, see `errors.ErrorKind`."""
    objects: int
    blamed: int
    """Not found, but a detection of the wrong class or at the wrong place explains it."""
    missed: int
    """Nothing is at them."""


@dataclass(frozen=True, kw_only=True)
class ConfusedClasses:
    """How often objects of one class were detected as another; None is the background."""

    truth: str | None
    detected: str | None
    count: int


@dataclass(frozen=True, kw_only=True)
class ImageAnalysis:
    """One image at the threshold of `ErrorCounts`."""

    image: int
    """Its id."""
    right: int
    wrong: int
    missed: int


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """All of a split. Proposals have no classes of their own, so no thresholds, curves and errors."""

    images: int
    objects: int
    best: OperatingPoint | None
    """One threshold for all classes."""
    classes: list[ClassAnalysis]
    curves: dict[str, list[float]]
    """Overlap to precision at recalls 0, 0.01, ..., 1, the mean over the classes."""
    recalls: dict[str, float]
    """Overlap to the share of objects that proposals find, in percent."""
    errors: ErrorCounts | None
    confusions: list[ConfusedClasses]
    """The most frequent first."""
    bestImages: list[ImageAnalysis]
    worstImages: list[ImageAnalysis]


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdicts:
    """Rows of the detections that an analysis counts in the images."""

    right: NDArray[np.int64]
    wrong: NDArray[np.int64]
    """Empty for proposals: an image has a thousand of them."""


def analyse(
    table: DetectionTable, *, truth: Truth, scores: Scores, classes: Sequence[str]
) -> tuple[Analysis, Verdicts]:
    """Analyse what `scores` says of the detections in `table`.

    Args:
        table: all detections of the split.
        truth: what they were compared with.
        scores: what the comparison gave.
        classes: names of the labels 1, 2, ...
    """
    counts = ~(truth.crowd | truth.ignored)
    matching, objects = scores.matching, np.bincount(truth.labels[counts], minlength=len(classes) + 1)[1:]
    is_right = matching.found >= 0
    has_classes = bool(scores.classes)
    rows = np.flatnonzero(matching.is_counted)
    best = best_point(table.scores[rows], is_right[rows], objects=int(counts.sum())) if has_classes else None
    found = np.bincount(truth.labels[matching.found[is_right]], minlength=len(classes) + 1)[1:]
    threshold = best.threshold if best else _USUAL_THRESHOLD
    explained = (
        errors.explain(table, truth=truth, matching=matching, threshold=threshold) if has_classes else None
    )
    verdicts = Verdicts(
        right=np.flatnonzero(is_right) if explained is None else explained.right,
        wrong=np.empty(0, np.int64) if explained is None else explained.wrong(),
    )
    ranked = _rank_images(table, truth=truth, counts=counts, verdicts=verdicts)
    made = Analysis(
        images=len(truth.image_ids),
        objects=int(counts.sum()),
        best=best,
        classes=[
            _class(label, name, table=table, scores=scores, objects=int(num_objects), found=int(num_found))
            for label, (name, num_objects, num_found) in enumerate(
                zip(classes, objects, found, strict=True), start=1
            )
        ],
        curves={overlap: _rounded(curve) for overlap, curve in scores.curves.items()},
        recalls=scores.recalls,
        errors=None if explained is None else _count(explained, threshold=threshold),
        confusions=[] if explained is None else _named(explained, classes),
        bestImages=[image for image in ranked[::-1] if image.right][:_EXAMPLES],
        worstImages=[image for image in ranked if image.wrong + image.missed][:_EXAMPLES],
    )
    return made, verdicts


def best_point(
    scores: NDArray[np.float32], is_right: NDArray[np.bool_], *, objects: int
) -> OperatingPoint | None:
    """The threshold with the highest F1 among (D,) detections; None where nothing is found."""
    order = np.argsort(-scores, kind="stable")
    num_right, num_all = np.cumsum(is_right[order]), np.arange(1, len(order) + 1)
    if not len(order) or not num_right[-1]:
        return None
    f1 = 2 * num_right / (num_all + objects)
    # A threshold lets all detections of one score through, or none of them.
    f1[:-1][np.diff(scores[order]) == 0] = 0
    place = int(f1.argmax())
    return OperatingPoint(
        threshold=float(scores[order[place]]),
        precision=100 * float(num_right[place] / num_all[place]),
        recall=100 * float(num_right[place] / objects),
        f1=100 * float(f1[place]),
    )


def _class(
    label: int, name: str, *, table: DetectionTable, scores: Scores, objects: int, found: int
) -> ClassAnalysis:
    if not scores.classes:
        return ClassAnalysis(name=name, objects=objects, found=found, figures={})
    own = np.flatnonzero((table.labels == label) & scores.matching.is_counted)
    curve = scores.classes[label - 1].curve
    return ClassAnalysis(
        name=name,
        objects=objects,
        found=found,
        figures=scores.classes[label - 1].figures,
        best=best_point(table.scores[own], scores.matching.found[own] >= 0, objects=objects),
        curve=[] if curve is None else _rounded(curve),
    )


def _count(explained: Explained, *, threshold: float) -> ErrorCounts:
    wrong = {str(kind): len(rows) for kind, rows in explained.kinds.items()}
    right, blamed, missed = (len(rows) for rows in (explained.right, explained.blamed, explained.missed))
    return ErrorCounts(
        threshold=threshold,
        detections=right + sum(wrong.values()),
        right=right,
        wrong=wrong,
        objects=right + blamed + missed,
        blamed=blamed,
        missed=missed,
    )


def _named(explained: Explained, classes: Sequence[str]) -> list[ConfusedClasses]:
    names = (None, *classes)
    return [
        ConfusedClasses(truth=names[item.truth], detected=names[item.detected], count=item.count)
        for item in explained.confusions
    ]


def _rank_images(
    table: DetectionTable,
    *,
    truth: Truth,
    counts: NDArray[np.bool_],
    verdicts: Verdicts,
) -> list[ImageAnalysis]:
    """The images from the worst on: of the lowest F1, and among equals the one with the most errors first."""
    order = np.argsort(truth.image_ids, kind="stable")
    ids = truth.image_ids[order]
    right, wrong = (
        np.bincount(np.searchsorted(ids, table.image_ids[rows]), minlength=len(ids))
        for rows in (verdicts.right, verdicts.wrong)
    )
    objects = np.bincount(truth.rows[counts], minlength=len(ids))[order]
    missed = objects - right
    share = 2 * right / np.maximum(2 * right + wrong + missed, 1)
    ranked = np.lexsort((right - wrong - missed, share))
    return [
        ImageAnalysis(
            image=int(ids[place]), right=int(right[place]), wrong=int(wrong[place]), missed=int(missed[place])
        )
        for place in ranked
    ]


def _rounded(curve: NDArray[np.float64]) -> list[float]:
    rounded: list[float] = np.round(curve, _DIGITS).tolist()
    return rounded
