"""A recipe without a real detector, whose rank 2 is slow while the file that `SLOW_MARK` names is there."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from kubedet_trainer.config import Recipe
from kubedet_trainer.models.detector import Detector
from kubedet_trainer.models.options.task import Task
from kubedet_trainer.recipes import smoke
from kubedet_trainer.recipes.faster_rcnn import FasterRcnnOptions
from kubedet_trainer.structures import Images, Targets

USUAL_SECONDS = 0.02
SLOW_SECONDS = 0.12


class Sleeper(Detector):
    """Sleeps in each forward pass, so that a busy machine makes no other rank slow."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.weight = nn.Parameter(torch.zeros(1))
        self._mark = Path(os.environ["SLOW_MARK"])
        self._may_be_slow = os.environ["RANK"] == "2"

    def forward(self, images: Images, targets: Targets, generator: torch.Generator) -> dict[str, Tensor]:
        """A loss that falls."""
        time.sleep(SLOW_SECONDS if self._may_be_slow and self._mark.exists() else USUAL_SECONDS)
        return {"loss": (self.weight - 1).square().sum()}


@dataclass(frozen=True, kw_only=True)
class SleeperOptions(FasterRcnnOptions):
    """Takes the overrides of a Faster R-CNN."""

    def build(self, task: Task) -> Detector:
        """The detector with fresh weights."""
        return Sleeper(task)


def smoke_sleeper() -> Recipe:
    """`smoke_faster_rcnn`, asleep."""
    model = SleeperOptions(
        backbone=smoke.BACKBONE, neck=smoke.NECK, rpn_head=smoke.RPN_HEAD, box_head=smoke.BOX_HEAD
    )
    return replace(smoke.smoke_faster_rcnn(), model=model)
