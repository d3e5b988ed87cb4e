"""Overlap of boxes in NumPy, for what scores detections without torch."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray


def box_iou(boxes: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, M) intersection over union of (N, 4) and (M, 4) boxes, xyxy with inclusive corners."""
    begin = np.maximum(boxes[:, None, :2], others[:, :2])
    end = np.minimum(boxes[:, None, 2:], others[:, 2:])
    common = (end - begin + 1).clip(min=0).prod(axis=-1)
    return cast("NDArray[np.float32]", common / (_areas(boxes)[:, None] + _areas(others) - common))


def _areas(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    return cast("NDArray[np.float32]", np.prod(boxes[:, 2:] - boxes[:, :2] + 1, axis=1))
