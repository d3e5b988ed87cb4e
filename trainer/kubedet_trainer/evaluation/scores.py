"""What a scorer gives: figures of a split and of each class, and which detection found which object."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

RECALLS = np.linspace(0, 1, 101)
"""Where curves of precision are sampled, as COCO does (Lin et al., 2014)."""

VALIDATION_LOSS = "validationLoss"
"""The figure of an evaluation that is no percentage, and the only one that is better if lower."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Matching:
    """How D detections are counted at an overlap of one half."""

    found: NDArray[np.int64]
    """(D,) row in `Truth` of the object that a detection found, -1 if none: it is wrong or does not count."""
    is_counted: NDArray[np.bool_]
    """(D,) False for what falls on a crowd or an ignored object, and for what is beyond an image's limit."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassScores:
    """One class."""

    figures: dict[str, float]
    """Average precision by name, in percent. Absent where there is nothing to find, say no small object."""
    curve: NDArray[np.float64] | None
    """(101,) precision at each of `RECALLS` and an overlap of one half; None without objects."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """All of a split."""

    figures: dict[str, float]
    """By name, in percent. Absent where there is nothing to find, say no small object."""
    classes: list[ClassScores]
    """Of the labels 1, 2, ...; empty for proposals, which have no class."""
    curves: dict[str, NDArray[np.float64]]
    """Overlap to (101,) precision at each of `RECALLS`, the mean over the classes; empty for proposals."""
    recalls: dict[str, float] = field(default_factory=dict)
    """Overlap to the share of objects that proposals find, in percent; empty for detections."""
    matching: Matching


def rank(metric: str, value: float) -> float:
    """What to sort by, so that the best value comes first."""
    return value if metric == VALIDATION_LOSS else -value


def mean_known(values: NDArray[Any]) -> float | None:
    """The mean without the -1 that stands for nothing to find; None where that is all there is."""
    known = values[values > -1]
    return float(np.mean(known)) if len(known) else None
