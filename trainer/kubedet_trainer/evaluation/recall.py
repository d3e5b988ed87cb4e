"""How many objects proposals find, by the zoo's own fast matching (``proposal_fast``: `docs/zoo.md`, 10).

In each image the pair of object and proposal that overlaps most is taken, then the best pair of the rest, and
so on. Crowds do not count. COCOeval's recall differs by a few tenths: it matches by score, and one
threshold at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kubedet_trainer.evaluation.overlaps import box_iou

_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_UNMATCHED = -1.0


def match_best(truth: NDArray[np.float32], proposals: NDArray[np.float32]) -> NDArray[np.float32]:
    """(G,) overlap of each object's match, the largest first; negative where no proposal was left for one.

    Args:
        truth: (G, 4) boxes of an image, xyxy with inclusive corners.
        proposals: (P, 4) of the same image, only as many of the best as shall count.
    """
    matched = np.full(len(truth), _UNMATCHED, np.float32)
    overlaps = box_iou(truth, proposals)
    for turn in range(min(overlaps.shape)):
        place = overlaps.argmax()
        matched[turn] = overlaps.flat[place]
        row, column = divmod(int(place), overlaps.shape[1])
        overlaps[row] = _UNMATCHED
        overlaps[:, column] = _UNMATCHED
    return matched


def recall_of_best(
    truth: Mapping[int, NDArray[np.float32]],
    *,
    image_ids: NDArray[np.int64],
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    limit: int,
) -> float | None:
    """`average_recall` of the `limit` best of each image's among P proposals.

    Args:
        truth: the (G, 4) boxes of every image, xyxy with inclusive corners, by its id.
        image_ids: (P,)
        boxes: (P, 4)
        scores: (P,)
        limit: as many proposals of an image count.
    """
    order = np.lexsort((-scores, image_ids))
    ids = np.array(list(truth), np.int64)
    starts, ends = (np.searchsorted(image_ids[order], ids, side=side) for side in ("left", "right"))
    return average_recall(
        [
            match_best(own, boxes[order[start : min(end, start + limit)]])
            for own, start, end in zip(truth.values(), starts.tolist(), ends.tolist(), strict=True)
        ]
    )


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
