"""Which images of an annotation file a run uses, and where their files lie. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kubedet_trainer.data.coco import Annotations, require_images
from kubedet_trainer.data.proposals import ProposalTable
from kubedet_trainer.errors import InvalidInput


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

    def __len__(self) -> int:
        return len(self.rows)

    def learnable(self) -> NDArray[np.bool_]:
        """(len,) whether each image has a box, and a proposal where those are given."""
        found = self.annotations.ground_truth_counts() > 0
        if self.proposals is not None:
            found &= self.proposals.counts() > 0
        return found[self.rows]


def training_split(
    annotations: Annotations, *, folder: Path, repeat: int = 1, proposals: ProposalTable | None = None
) -> Split:
    """The images that the zoo trains on: with an annotation of any kind, no side below 32 pixels.

    They are listed `repeat` times, and each copy has random choices of its own: an epoch of the schedule then
    passes over them that often.

    Raises:
        MissingInput: an image file is absent.
        InvalidInput: there is no image with a box that could be learnt.
    """
    require_images(annotations, folder)
    rows = np.tile(annotations.training_rows(), repeat)
    split = Split(annotations=annotations, folder=folder, rows=rows, proposals=proposals)
    if not split.learnable().any():
        what = "a box" if proposals is None else "a box and a proposal"
        raise InvalidInput(f"{folder}: no training image has {what}, must be at least one")
    return split


def validation_split(
    annotations: Annotations, *, folder: Path, proposals: ProposalTable | None = None
) -> Split:
    """All images, with or without annotations: a detection in an empty image is an error that counts.

    Raises:
        MissingInput: an image file is absent.
        InvalidInput: there is no box to compare detections with.
    """
    require_images(annotations, folder)
    if not annotations.ground_truth_counts().any():
        raise InvalidInput(f"{folder}: no validation image has a box, must be at least one")
    rows = np.arange(len(annotations))
    return Split(annotations=annotations, folder=folder, rows=rows, proposals=proposals)
