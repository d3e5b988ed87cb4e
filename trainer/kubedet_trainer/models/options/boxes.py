"""What heads of one stage and of two have in common."""

from __future__ import annotations

from dataclasses import dataclass

from kubedet_trainer.contract.bounds import bounded

Stds = tuple[float, float, float, float]
"""Scale of the regression targets dx, dy, dw, dh (`docs/zoo.md`, 4.4)."""


@dataclass(frozen=True, kw_only=True)
class DetectionOptions:
    """Which of the judged boxes become detections."""

    score_threshold: float = bounded(default=0.05, minimum=0, maximum=1)
    """Detections must score above this."""
    nms_iou: float = bounded(default=0.5, minimum=0, maximum=1)
    """A detection that overlaps a better one of its class by more than this is suppressed."""
    max_detections: int = bounded(default=100, minimum=1)
    """Most detections of an image."""
