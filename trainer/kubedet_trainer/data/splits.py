"""Which images of an annotation file a run uses, and where their files lie. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kubedet_trainer.config import DataConfig
from kubedet_trainer.data import balance
from kubedet_trainer.data.arrays import Annotations
from kubedet_trainer.data.proposals import ProposalTable
from kubedet_trainer.errors import InvalidInput


class SplitRefused(InvalidInput):
    """A split has nothing that training or evaluation could use."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """The images of one split that are used, and where they lie."""

    annotations: Annotations
    folder: Path
    """Holds the image files."""
    rows: NDArray[np.int64]
    """Rows of `annotations`, in the order that indices of the split count."""
    proposals: ProposalTable | None = None
    """Of all images of `annotations`; None where the detector makes its own."""
    keep_empty: bool = False
    """Whether images without any annotation are learnt, as examples of background."""
    chances: NDArray[np.float64] | None = None
    """(len,) how likely each image is to appear in an epoch; None where all do in each."""
    repeated: Mapping[str, float] = field(default_factory=dict)
    """How often images of rare classes appear in an epoch on average, by the class."""

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def whole(cls, annotations: Annotations, folder: Path) -> Split:
        """Every image of an annotation file, once and in its order."""
        return cls(annotations=annotations, folder=folder, rows=np.arange(len(annotations)))

    def learnable(self) -> NDArray[np.bool_]:
        """(len,) whether each image has a box, or may have none, and a proposal where those are given."""
        found = self.annotations.ground_truth_counts() > 0
        if self.keep_empty:
            found |= self.annotations.annotation_counts == 0
        if self.proposals is not None:
            found &= self.proposals.counts() > 0
        return found[self.rows]


def training_split(
    annotations: Annotations, *, folder: Path, data: DataConfig, proposals: ProposalTable | None = None
) -> Split:
    """The images that a recipe trains on; for the zoo those with an annotation, no side below 32 pixels.

    They are listed `DataConfig.repeat` times, and those of rare classes as often as `balance_threshold` asks.
    Each copy has random choices of its own: an epoch of the schedule then passes over them that often.

    Raises:
        SplitRefused: there is no image with a box that could be learnt.
    """
    rows = annotations.training_rows(min_side=data.min_image_side, keep_empty=data.keep_empty)
    split = _balanced(
        Split(
            annotations=annotations,
            folder=folder,
            rows=np.tile(rows, data.repeat),
            proposals=proposals,
            keep_empty=data.keep_empty,
        ),
        threshold=data.balance_threshold,
    )
    if not (split.learnable() & (annotations.ground_truth_counts()[split.rows] > 0)).any():
        what = "a box" if proposals is None else "a box and a proposal"
        reasons = {**annotations.left_out, **images_left_out(annotations, data)}
        told = "; left out: " + describe(reasons) if reasons else ""
        raise SplitRefused(f"{folder}: no training image has {what}, must be at least one{told}")
    return split


def _balanced(split: Split, *, threshold: float | None) -> Split:
    """The split with as many copies of images of rare classes as an epoch may need.

    An image with a factor of 2.3 has three copies: two appear in every epoch, the third in 3 of 10.
    """
    if threshold is None:
        return split
    factors = balance.repeat_factors(split.annotations, split.rows, threshold=threshold)
    if not factors.classes:
        return split
    copies = np.ceil(factors.images).astype(np.int64)
    chances = np.ones(copies.sum())
    chances[np.cumsum(copies) - 1] = factors.images - copies + 1
    return replace(split, rows=np.repeat(split.rows, copies), chances=chances, repeated=factors.classes)


def images_left_out(annotations: Annotations, data: DataConfig) -> dict[str, int]:
    """How many images are not trained on, by the reason; the first one that applies counts."""
    is_small = annotations.sizes.min(axis=1, initial=2**30) < data.min_image_side
    is_bare = annotations.annotation_counts == 0
    has_nothing = ~is_bare & (annotations.ground_truth_counts() == 0)
    small = f"images with a side below {data.min_image_side} pixels (data.min_image_side)"
    counts = {
        small: is_small.sum(),
        "images without objects (kept by data.keep_empty)": 0
        if data.keep_empty
        else (is_bare & ~is_small).sum(),
        "images without objects that can be learnt": (has_nothing & ~is_small).sum(),
    }
    return {reason: int(count) for reason, count in counts.items() if count}


def describe(left_out: Mapping[str, int]) -> str:
    """Counts by reason in one line."""
    return ", ".join(f"{count} {reason}" for reason, count in left_out.items())


def describe_repeated(split: Split) -> str:
    """Which classes an epoch repeats and how long that makes it, in one line; empty where it repeats none."""
    if split.chances is None:
        return ""
    classes = ", ".join(f"{name} {factor:.2f}" for name, factor in split.repeated.items())
    return (
        f"images of rare classes are repeated (data.balance_threshold): an epoch has "
        f"{split.chances.sum():.0f} images of {len(np.unique(split.rows))}; times by class: {classes}"
    )


def validation_split(
    annotations: Annotations, *, folder: Path, name: str = "val", proposals: ProposalTable | None = None
) -> Split:
    """All images, with or without annotations: a detection in an empty image is an error that counts.

    Raises:
        SplitRefused: there is no box to compare detections with; `name`, ``val`` or ``test``, is told.
    """
    if not annotations.ground_truth_counts().any():
        told = "; left out: " + describe(annotations.left_out) if annotations.left_out else ""
        what = "validation" if name == "val" else name
        raise SplitRefused(f"{folder}: no {what} image has a box, must be at least one{told}")
    rows = np.arange(len(annotations))
    return Split(annotations=annotations, folder=folder, rows=rows, proposals=proposals)
