"""Overlap of boxes in NumPy, for what scores detections without torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
from numpy.typing import NDArray


def box_iou(boxes: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, M) intersection over union of (N, 4) and (M, 4) boxes, xyxy with inclusive corners.

    Source: `docs/zoo.md`, 0.4.
    """
    # Corner by corner: with both axes in one array NumPy needs five times as long.
    (x1, y1, x2, y2), (other_x1, other_y1, other_x2, other_y2) = boxes.T[..., None], others.T
    widths = np.minimum(x2, other_x2) - np.maximum(x1, other_x1) + 1
    heights = np.minimum(y2, other_y2) - np.maximum(y1, other_y1) + 1
    common = widths.clip(min=0) * heights.clip(min=0)
    areas = (x2 - x1 + 1) * (y2 - y1 + 1)
    other_areas = (other_x2 - other_x1 + 1) * (other_y2 - other_y1 + 1)
    return cast("NDArray[np.float32]", common / (areas + other_areas - common))


def by_image(
    image_ids: NDArray[np.int64], object_image_ids: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], slice]]:
    """For each image with detections and objects the rows of the one and the part of the other.

    Args:
        image_ids: (D,) of the detections.
        object_image_ids: (M,) of the objects, in ascending order.
    """
    order = np.argsort(image_ids, kind="stable")
    numbers, starts = np.unique(image_ids[order], return_index=True)
    ends = np.append(starts[1:], len(order))
    first = np.searchsorted(object_image_ids, numbers, side="left")
    last = np.searchsorted(object_image_ids, numbers, side="right")
    for index in np.flatnonzero(last > first):
        yield order[starts[index] : ends[index]], slice(int(first[index]), int(last[index]))
