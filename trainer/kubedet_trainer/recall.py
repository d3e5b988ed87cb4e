"""How many objects proposals find, by the zoo's own fast matching (`zoo.md` 10, ``proposal_fast``).

In each image the pair of object and proposal that overlaps most is taken, then the best pair of the rest, and
so on. Crowds do not count. COCOeval's recall differs by a few tenths: it matches by score, and one
threshold at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_UNMATCHED = -1.0


def match_best(truth: NDArray[np.float32], proposals: NDArray[np.float32]) -> NDArray[np.float32]:
    """(G,) overlap of each object's match, the largest first; negative where no proposal was left for one.

    Args:
        truth: (G, 4) boxes of an image, xyxy with inclusive corners.
        proposals: (P, 4) of the same image, only as many of the best as shall count.
    """
    matched = np.full(len(truth), _UNMATCHED, np.float32)
    overlaps = _intersection_over_union(truth, proposals)
    for turn in range(min(overlaps.shape)):
        place = overlaps.argmax()
        matched[turn] = overlaps.flat[place]
        row, column = divmod(int(place), overlaps.shape[1])
        overlaps[row] = _UNMATCHED
        overlaps[:, column] = _UNMATCHED
    return matched


def average_recall(matched: Sequence[NDArray[Any]]) -> float | None:
    """Share in percent of the objects of all images that are found, the mean over IoU 0.50, 0.55, ..., 0.95.

    Args:
        matched: what `match_best` gave for each image.

    Returns:
        None where there is no object.
    """
    overlaps = np.concatenate([np.empty(0, np.float32), *matched])
    if not len(overlaps):
        return None
    return 100 * float((overlaps[:, None] >= _THRESHOLDS).mean())


def _intersection_over_union(boxes: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """(G, P) for xyxy boxes with inclusive corners."""
    (x1, y1, x2, y2), (other_x1, other_y1, other_x2, other_y2) = boxes.T[..., None], others.T
    widths = np.minimum(x2, other_x2) - np.maximum(x1, other_x1) + 1
    heights = np.minimum(y2, other_y2) - np.maximum(y1, other_y1) + 1
    shared = widths.clip(min=0) * heights.clip(min=0)
    areas = (x2 - x1 + 1) * (y2 - y1 + 1)
    other_areas = (other_x2 - other_x1 + 1) * (other_y2 - other_y1 + 1)
    overlaps: NDArray[np.float32] = shared / (areas + other_areas - shared)
    return overlaps
