"""Why detections are wrong and objects are missed, each for exactly one reason.

Source: Bolya et al., 2020 (TIDE), section 2.2, with its thresholds. TIDE weighs all detections by what they
cost average precision; here only those count that a user sees, which score at least a threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from kubedet_trainer.data.arrays import Truth
from kubedet_trainer.evaluation.detections import DetectionTable
from kubedet_trainer.evaluation.overlaps import box_iou, by_image
from kubedet_trainer.evaluation.scores import Matching

FOREGROUND = 0.5
"""Overlap from which on a box is at the right place."""
BACKGROUND = 0.1
"""Overlap below which it is at no object at all."""
_NONE = -1


class ErrorKind(StrEnum):
    """Why a detection is wrong."""

    CLASSIFICATION = "classification"
    """It is at an object of another class."""
    LOCALISATION = "localisation"
    """It overlaps an object of its class too little."""
    BOTH = "both"
    """It overlaps an object of another class too little."""
    DUPLICATE = "duplicate"
    """It is at an object of its class that a better one has found."""
    BACKGROUND = "background"
    """It is at no object."""


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """How often objects of one class were detected as another."""

    truth: int
    """Label of the objects, 0 for the background."""
    detected: int
    """Label of the detections, 0 where nothing was detected."""
    count: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Explained:
    """The reasons for all that a threshold lets through."""

    kinds: dict[ErrorKind, NDArray[np.int64]]
    """Rows of the wrong detections of each kind."""
    right: NDArray[np.int64]
    """Rows of the detections that found an object."""
    missed: NDArray[np.int64]
    """Rows in `Truth` of the objects at which there is nothing."""
    blamed: NDArray[np.int64]
    """Rows in `Truth` of the objects that are not found because a detection has the wrong class or place."""
    confusions: list[Confusion]
    """The most frequent first. Each object and each detection is in exactly one."""

    def wrong(self) -> NDArray[np.int64]:
        """Rows of the detections that are wrong for any reason."""
        return np.concatenate(list(self.kinds.values()))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Nearest:
    """The object that each of D detections overlaps most, and by how much; 0 and -1 where none is near."""

    overlaps: NDArray[np.float32]
    objects: NDArray[np.int64]


def explain(table: DetectionTable, *, truth: Truth, matching: Matching, threshold: float) -> Explained:
    """Explain the detections that score at least `threshold`, and the objects that these do not find.

    Crowds, ignored objects and what falls on them count neither way.
    """
    rows = np.flatnonzero(matching.is_counted & (table.scores >= threshold))
    found = matching.found[rows]
    counts = ~(truth.crowd | truth.ignored)
    same, other = _nearest(table, rows, truth=truth, objects=np.flatnonzero(counts))
    kinds = _kinds(same.overlaps, other.overlaps, is_right=found != _NONE)
    is_found = np.zeros(len(truth.labels), np.bool_)
    is_found[found[found != _NONE]] = True
    is_blamed = np.zeros(len(truth.labels), np.bool_)
    for kind, nearest in ((ErrorKind.CLASSIFICATION, other), (ErrorKind.LOCALISATION, same)):
        is_blamed[nearest.objects[kinds == kind]] = True
    return Explained(
        kinds={kind: rows[kinds == kind] for kind in ErrorKind},
        right=rows[kinds == ""],
        missed=np.flatnonzero(counts & ~is_found & ~is_blamed),
        blamed=np.flatnonzero(counts & ~is_found & is_blamed),
        confusions=_confusions(
            table.labels[rows],
            truth=truth,
            found=_with_confused(found, other, kinds=kinds, scores=table.scores[rows], is_found=is_found),
            counts=counts,
        ),
    )


def _nearest(
    table: DetectionTable, rows: NDArray[np.int64], *, truth: Truth, objects: NDArray[np.int64]
) -> tuple[_Nearest, _Nearest]:
    """The nearest object of the same class, and of the other classes, of each detection in `rows`."""
    image_ids = truth.image_ids[truth.rows[objects]]
    objects = objects[np.argsort(image_ids, kind="stable")]
    corners = truth.boxes[objects].copy()
    corners[:, 2:] += corners[:, :2] - 1
    boxes, labels = corners.astype(np.float32), truth.labels[objects]
    same, other = (
        _Nearest(overlaps=np.zeros(len(rows), np.float32), objects=np.full(len(rows), _NONE))
        for _ in range(2)
    )
    for own, part in by_image(table.image_ids[rows], np.sort(image_ids)):
        overlaps = box_iou(table.boxes[rows[own]], boxes[part])
        is_same = table.labels[rows[own], None] == labels[part]
        for nearest, chosen in ((same, is_same), (other, ~is_same)):
            masked = np.where(chosen, overlaps, 0)
            best = masked.argmax(axis=1)
            nearest.overlaps[own] = masked[np.arange(len(best)), best]
            nearest.objects[own] = objects[part][best]
    return same, other


def _kinds(
    same: NDArray[np.float32], other: NDArray[np.float32], *, is_right: NDArray[np.bool_]
) -> NDArray[np.str_]:
    """(D,) the kind of each error, "" for what is right. The first rule that applies counts, as in TIDE."""
    rules = {
        "": is_right,
        ErrorKind.LOCALISATION: (same >= BACKGROUND) & (same < FOREGROUND),
        ErrorKind.CLASSIFICATION: other >= FOREGROUND,
        ErrorKind.DUPLICATE: same >= FOREGROUND,
        ErrorKind.BACKGROUND: np.maximum(same, other) < BACKGROUND,
    }
    return np.select(list(rules.values()), [str(kind) for kind in rules], str(ErrorKind.BOTH))


def _with_confused(
    found: NDArray[np.int64],
    other: _Nearest,
    *,
    kinds: NDArray[np.str_],
    scores: NDArray[np.float32],
    is_found: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """`found`, and for the best detection of the wrong class the object that no detection finds."""
    confused = np.flatnonzero(kinds == ErrorKind.CLASSIFICATION)
    confused = confused[~is_found[other.objects[confused]]]
    confused = confused[np.argsort(-scores[confused], kind="stable")]
    objects, first = np.unique(other.objects[confused], return_index=True)
    taken = found.copy()
    taken[confused[first]] = objects
    return taken


def _confusions(
    labels: NDArray[np.int64], *, truth: Truth, found: NDArray[np.int64], counts: NDArray[np.bool_]
) -> list[Confusion]:
    """Pairs of object and detection; what has no partner is paired with the background, 0."""
    left = counts.copy()
    left[found[found != _NONE]] = False
    partners = np.where(found == _NONE, 0, truth.labels[found] if len(truth.labels) else 0)
    alone = truth.labels[left]
    pairs = np.stack([
        np.concatenate([partners, alone]),
        np.concatenate([labels, np.zeros(len(alone), np.int64)]),
    ])  # fmt: skip
    kinds, numbers = np.unique(pairs, axis=1, return_counts=True)
    order = np.argsort(-numbers, kind="stable")
    return [
        Confusion(truth=int(kinds[0, place]), detected=int(kinds[1, place]), count=int(numbers[place]))
        for place in order
    ]
