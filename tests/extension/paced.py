"""`smoke_faster_rcnn` with pauses, so that each phase of a training lasts long enough to be met by a fault.

While the file ``PACE_HOLD`` is there, no epoch of ``PACE_EPOCH`` steps ends. The figures stay the same.
"""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubedet_trainer.config import Recipe
from kubedet_trainer.models.options.task import Task
from kubedet_trainer.recipes import smoke
from kubedet_trainer.recipes.faster_rcnn import FasterRcnnOptions

if TYPE_CHECKING:
    from kubedet_trainer.models.detector import Detector

STEP_SECONDS = 0.3
DETECTION_SECONDS = 0.15
"""The pauses before each step and before each detection."""


@dataclass(frozen=True, kw_only=True)
class PacedOptions(FasterRcnnOptions):
    """Takes the overrides of a Faster R-CNN."""

    def build(self, task: Task) -> Detector:
        """The detector, which takes its time."""
        import torch

        detector = super().build(task)
        epoch, hold = int(os.environ["PACE_EPOCH"]), Path(os.environ["PACE_HOLD"])
        steps, detect = itertools.count(1), detector.detect

        def step_slowly(*_: Any) -> None:
            time.sleep(STEP_SECONDS)
            if torch.is_grad_enabled() and next(steps) % epoch == 0:
                while hold.exists():
                    time.sleep(STEP_SECONDS)

        def detect_slowly(*arguments: Any) -> Any:
            time.sleep(DETECTION_SECONDS)
            return detect(*arguments)

        detector.register_forward_pre_hook(step_slowly)
        object.__setattr__(detector, "detect", detect_slowly)
        return detector


def smoke_paced() -> Recipe:
    """`smoke_faster_rcnn`, slowly."""
    model = PacedOptions(
        backbone=smoke.BACKBONE, neck=smoke.NECK, rpn_head=smoke.RPN_HEAD, box_head=smoke.BOX_HEAD
    )
    return replace(smoke.smoke_faster_rcnn(), model=model)
