"""How often images of rare classes are repeated in an epoch: the repeat factor sampling of LVIS.

Source: Gupta et al., 2019 (version 2), appendix B.2. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kubedet_trainer.data.arrays import Annotations

_DIGITS = 6
"""Of factors: a sum of them is then rounded up only where it really is above a whole number."""


@dataclass(frozen=True, kw_only=True)
class RepeatFactors:
    """How often images appear in an epoch on average, at least once."""

    images: NDArray[np.float64]
    """(R,) of each of the given rows."""
    classes: Mapping[str, float]
    """Of the classes that are repeated, by name."""


def repeat_factors(annotations: Annotations, rows: NDArray[np.int64], *, threshold: float) -> RepeatFactors:
    """The factors of the images `rows`: max(1, sqrt(threshold / share)) of their rarest class.

    The share of a class is that of the images with an object of it, crowds excepted.
    """
    counts = np.diff(annotations.box_offsets)
    box_rows = np.repeat(np.arange(len(annotations)), counts)
    num_labels = len(annotations.classes) + 1
    is_used = np.zeros(len(annotations), bool)
    is_used[rows] = True
    kept = ~annotations.crowd & is_used[box_rows]
    pairs = np.unique(box_rows[kept] * num_labels + annotations.labels[kept])
    image, label = np.divmod(pairs, num_labels)
    shares = np.bincount(label, minlength=num_labels) / max(1, is_used.sum())
    of_label = np.ones(num_labels)
    rare = (shares > 0) & (shares < threshold)
    of_label[rare] = np.round(np.sqrt(threshold / shares[rare]), _DIGITS)
    of_image = np.ones(len(annotations))
    np.maximum.at(of_image, image, of_label[label])
    return RepeatFactors(
        images=of_image[rows],
        classes={
            annotations.classes[index - 1]: float(of_label[index]) for index in np.flatnonzero(rare).tolist()
        },
    )
