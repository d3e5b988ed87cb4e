"""What the specification's golden checker hands to an adapter."""

from __future__ import annotations

from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Meta(TypedDict):
    """How an image was resized."""

    img_shape: list[int]
    """Height, width and channels of the resized image."""
    ori_shape: list[int]
    """The same of the image in its file."""
    scale_factor: float | NDArray[np.float32]
    """Resized pixels by original pixels, of each corner's coordinate where the axes differ."""


class GoldenBatch(TypedDict):
    """A training batch; lists have an item an image."""

    img: Tensor
    metas: list[Meta]
    gt_bboxes: list[Tensor]
    gt_labels: NotRequired[list[Tensor]]
    gt_masks: NotRequired[list[NDArray[np.uint8]]]
    proposals_in: NotRequired[list[Tensor]]
