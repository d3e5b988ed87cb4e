"""How good a detector is: figures over a split that the ranks share.

Each rank detects in its images; rank 0 gathers what they found, with masks as run-length codes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from kubedet_trainer import dist
from kubedet_trainer.evaluation.coco import Scorer
from kubedet_trainer.evaluation.detections import DetectionTable
from kubedet_trainer.evaluation.scores import Scores
from kubedet_trainer.models.detector import Detector
from kubedet_trainer.structures import Batch


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What rank 0 knows afterwards."""

    scores: Scores
    detections: DetectionTable

    @property
    def metrics(self) -> dict[str, float]:
        """Figures by name, in percent. Absent where there is nothing to find, say no small object."""
        return self.scores.figures


@torch.inference_mode()
def detect_all(
    detector: Detector,
    batches: Iterable[Batch],
    *,
    num_images: int,
    device: torch.device,
    should_stop: Callable[[], bool] = lambda: False,
) -> DetectionTable | None:
    """Detect in this rank's images, and bring what all ranks found to rank 0.

    Every rank must call this. `should_stop` is asked before each image, equally often on every rank even if
    they have unequal shares, so it may itself agree with the other ranks; it must answer the same on all.

    Args:
        detector: left in the mode it was in.
        batches: this rank's share, batches of one image.
        num_images: images of the whole split.
        device: where the detector is.
        should_stop: whether to give up.

    Returns:
        None when stopped, and on every rank but 0.
    """
    tables: list[DetectionTable] = []
    was_training = detector.training
    detector.eval()
    try:
        turns = range(-(-num_images // dist.world_size()))
        for _, batch in itertools.zip_longest(turns, batches):
            if should_stop():
                return None
            if batch is not None:
                tables += detect(detector, batch, device=device)
    finally:
        detector.train(was_training)
    gathered = dist.gather(DetectionTable.joined(tables))
    return DetectionTable.joined(gathered) if gathered else None


def evaluate(
    detector: Detector,
    batches: Iterable[Batch],
    *,
    num_images: int,
    scorer: Scorer,
    device: torch.device,
    should_stop: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Score what `detect_all` finds, which has the other arguments; rank 0's, as `scorer` is."""
    detections = detect_all(detector, batches, num_images=num_images, device=device, should_stop=should_stop)
    if detections is None:
        return None
    return Evaluation(scores=scorer.score(detections), detections=detections)


def detect(detector: Detector, batch: Batch, *, device: torch.device) -> list[DetectionTable]:
    """What `detector`, in evaluation mode on `device`, finds in each image of a batch from a loader."""
    image_ids, sizes = batch.image_ids.tolist(), batch.original_sizes.tolist()
    batch = batch.to(device)
    found = detector.detect(batch.images, batch.scale_factors)
    return [
        DetectionTable.of_image(image_id, detections=detections, size=(size[0], size[1]))
        for image_id, size, detections in zip(image_ids, sizes, found, strict=True)
    ]
