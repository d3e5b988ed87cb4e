"""Detectors by architecture: plain torch with plain arguments."""

from collections.abc import Callable, Mapping
from typing import Any

from kubedet_trainer.contract.nearest import did_you_mean
from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.models.cascade import CascadeDetector
from kubedet_trainer.models.detector import Detector
from kubedet_trainer.models.retinanet import RetinaNet
from kubedet_trainer.models.ssd import Ssd
from kubedet_trainer.models.two_stage import RoiDetector, Rpn


def _build_rpn(*, num_classes: int, **options: Mapping[str, Any]) -> Detector:
    """A proposal network does not tell classes apart."""
    return Rpn(**options)


BUILDERS: dict[str, Callable[..., Detector]] = {
    "rpn": _build_rpn,
    "fast_rcnn": RoiDetector,
    "fast_mask_rcnn": RoiDetector,
    "faster_rcnn": RoiDetector,
    "mask_rcnn": RoiDetector,
    "cascade_rcnn": CascadeDetector,
    "cascade_mask_rcnn": CascadeDetector,
    "retinanet": RetinaNet,
    "ssd": Ssd,
}
"""Architecture to what builds it from `num_classes` and its options."""


def build_model(architecture: str, *, num_classes: int, **options: Any) -> Detector:
    """A detector with freshly initialised weights.

    `num_classes` counts the background; `options` are those of `config.model_options`.

    Raises:
        InvalidInput: no such architecture.
    """
    if architecture not in BUILDERS:
        near = did_you_mean(architecture, BUILDERS)
        raise InvalidInput(f"architecture: got '{architecture}', must be one of {', '.join(BUILDERS)}.{near}")
    return BUILDERS[architecture](num_classes=num_classes, **options)
