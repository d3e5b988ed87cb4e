"""What every detector's options have: a name, and the module that they build."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubedet_trainer.config.fields import fixed
from kubedet_trainer.models.options.task import Task

if TYPE_CHECKING:  # importing it takes as long as importing torch
    from kubedet_trainer.models.detector import Detector


@dataclass(frozen=True, kw_only=True)
class DetectorOptions:
    """Base of all detectors' options. A subclass has a field for each part and builds a detector of them."""

    architecture: str = fixed()
    """The method, as in the names of recipes."""

    def build(self, task: Task) -> Detector:
        """The detector with fresh weights.

        Imports the module of the detector, and with it torch, only when called.
        """
        raise NotImplementedError
