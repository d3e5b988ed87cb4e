"""Which images of an annotation file a run uses, and where their files lie. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kubedet_trainer.data.coco import Annotations, require_images
from kubedet_trainer.errors import InvalidInput


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """The images of one split that are used, and where they lie."""

    annotations: Annotations
    folder: Path
    """Holds the image files."""
    rows: NDArray[np.int64]
    """Rows of `annotations`, in the order that indices of the split count."""

    def __len__(self) -> int:
        return len(self.rows)


def training_split(annotations: Annotations, *, folder: Path) -> Split:
    """The images that the zoo trains on: with an annotation of any kind, no side below 32 pixels.

    Raises:
        MissingInput: an image file is absent.
        InvalidInput: there is no image with a box that could be learnt.
    """
    require_images(annotations, folder)
    rows = annotations.training_rows()
    if not annotations.ground_truth_counts()[rows].any():
        raise InvalidInput(f"{folder}: no training image has a box, must be at least one")
    return Split(annotations=annotations, folder=folder, rows=rows)


def validation_split(annotations: Annotations, *, folder: Path) -> Split:
    """All images, with or without annotations: a detection in an empty image is an error that counts.

    Raises:
        MissingInput: an image file is absent.
        InvalidInput: there is no box to compare detections with.
    """
    require_images(annotations, folder)
    if not annotations.ground_truth_counts().any():
        raise InvalidInput(f"{folder}: no validation image has a box, must be at least one")
    return Split(annotations=annotations, folder=folder, rows=np.arange(len(annotations)))
