"""What goes into the adapters, and what they hand to the comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
    """A training batch; lists have an item for each image."""

    img: Tensor
    metas: list[Meta]
    gt_bboxes: list[Tensor]
    gt_labels: NotRequired[list[Tensor]]
    gt_masks: NotRequired[list[Tensor]]
    proposals_in: NotRequired[list[Tensor]]


@dataclass(frozen=True, kw_only=True)
class Found:
    """The detections of one image, best first."""

    boxes: Tensor
    """(k, 5) corners in original pixels, and the score."""
    labels: Tensor
    """(k) classes without the background, from 0."""
    masks: Tensor | None = None
    """(k, 28, 28) probabilities of the detection's own class."""
    areas: Sequence[int] = ()
    """Pixels of each mask once it is pasted."""


@dataclass(frozen=True, kw_only=True)
class Regions:
    """What the heads make of given regions."""

    features: Tensor
    """(n, 256, 7, 7), as the first stage pools them."""
    classes: list[Tensor]
    """Of each stage, (n, classes) logits."""
    deltas: list[Tensor]
    """Of each stage, (n, 4) or (n, 4 * classes)."""
    masks: list[Tensor] = field(default_factory=list)
    """Of each stage, (n, classes, 28, 28) logits."""
