"""Overlap of boxes in NumPy, for what scores detections without torch."""

from __future__ import annotations

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
