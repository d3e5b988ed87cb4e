"""How good a detector is: COCO's own figures over a validation split that the ranks share.

Each rank detects in its images; rank 0 gathers what they found and has pycocotools compare it with the
annotations. Detections leave here in COCO's format: corners are inclusive inside the trainer, so a width is
x2 - x1 + 1.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from kubedet_trainer import dist
from kubedet_trainer.config import NormalisationConfig
from kubedet_trainer.models.images import normalise
from kubedet_trainer.structures import Batch, Detections

_PROPOSAL_CATEGORY = 1
"""What the zoo writes for proposals, which have no class; scoring them ignores it."""


@dataclass(frozen=True, kw_only=True)
class _Metric:
    """How pycocotools is asked, and what its twelve figures are called here (None: meaningless here)."""

    use_categories: bool
    max_detections: tuple[int, int, int]
    names: tuple[str | None, ...]


_METRICS: Mapping[str, _Metric] = {
    "bbox": _Metric(
        use_categories=True,
        max_detections=(1, 10, 100),
        names=(
            *("boxAP", "boxAP50", "boxAP75", "boxAPs", "boxAPm", "boxAPl"),
            *("boxAR1", "boxAR10", "boxAR100", "boxARs", "boxARm", "boxARl"),
        ),
    ),
    "proposal": _Metric(
        use_categories=False,
        max_detections=(100, 300, 1000),
        names=(*[None] * 6, "ar100", "ar300", "ar1000", "ar1000s", "ar1000m", "ar1000l"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class DetectionTable:
    """Detections of many images, D in all."""

    image_ids: NDArray[np.int64]
    """(D,) the data set's own."""
    labels: NDArray[np.int64]
    """(D,) 1 and up."""
    boxes: NDArray[np.float32]
    """(D, 4) xyxy with inclusive corners, in pixels of the original image."""
    scores: NDArray[np.float32]
    """(D,)"""

    @classmethod
    def of_image(cls, image_id: int, *, detections: Detections) -> DetectionTable:
        """The detections of one image."""
        return cls(
            image_ids=np.full(len(detections.labels), image_id, np.int64),
            labels=detections.labels.cpu().numpy(),
            boxes=detections.boxes.float().cpu().numpy(),
            scores=detections.scores.float().cpu().numpy(),
        )

    @classmethod
    def joined(cls, tables: Sequence[DetectionTable]) -> DetectionTable:
        """One table of all, in the given order."""
        return cls(
            image_ids=np.concatenate([np.empty(0, np.int64), *(table.image_ids for table in tables)]),
            labels=np.concatenate([np.empty(0, np.int64), *(table.labels for table in tables)]),
            boxes=np.concatenate([np.empty((0, 4), np.float32), *(table.boxes for table in tables)]),
            scores=np.concatenate([np.empty(0, np.float32), *(table.scores for table in tables)]),
        )

    def of(self, image_id: int) -> DetectionTable:
        """The part that belongs to one image."""
        return self._rows(np.flatnonzero(self.image_ids == image_id))

    def above(self, threshold: float) -> DetectionTable:
        """Those that score at least `threshold`."""
        return self._rows(np.flatnonzero(self.scores >= threshold))

    def _rows(self, rows: NDArray[np.int64]) -> DetectionTable:
        return DetectionTable(
            image_ids=self.image_ids[rows],
            labels=self.labels[rows],
            boxes=self.boxes[rows],
            scores=self.scores[rows],
        )

    def to_coco(self, category_ids: Sequence[int] | None) -> list[dict[str, Any]]:
        """COCO's results format; `category_ids` are those of the labels 1, 2, ..., None for proposals."""
        boxes = self.boxes.astype(np.float64)
        boxes[:, 2:] += 1 - boxes[:, :2]
        categories = (
            np.full(len(self.labels), _PROPOSAL_CATEGORY)
            if category_ids is None
            else np.array(category_ids, np.int64)[self.labels - 1]
        )
        rows = zip(
            self.image_ids.tolist(), categories.tolist(), self.scores.tolist(), boxes.tolist(), strict=True
        )
        return [
            {"image_id": image_id, "category_id": category, "score": score, "bbox": box}
            for image_id, category, score, box in rows
        ]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What rank 0 knows afterwards."""

    metrics: dict[str, float]
    """Figures by name, in percent. Absent where the split has no such ground truth, say no small object."""
    detections: DetectionTable


class Scorer:
    """Compares results with one annotation file by pycocotools; keeps the file parsed between evaluations.

    Args:
        annotations: COCO annotation file of the split.
        kind: ``bbox`` for average precision of boxes, ``proposal`` for recall of boxes of any class.
    """

    def __init__(self, annotations: Path, *, kind: str) -> None:
        self._annotations = annotations
        self._metric = _METRICS[kind]
        self.is_proposal = kind == "proposal"
        """Whether classes do not matter."""

    def score(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """The figures in percent for results in COCO's format; an image without any counts as empty."""
        # pycocotools prints its progress, which would end up between the lines of the log.
        with contextlib.redirect_stdout(io.StringIO()):
            truth = self._truth
            scoring = COCOeval(truth, _load_results(truth, results), iouType="bbox")
            scoring.params.useCats = int(self._metric.use_categories)
            scoring.params.maxDets = list(self._metric.max_detections)
            scoring.evaluate()
            scoring.accumulate()
            scoring.summarize()
        # pycocotools says -1 where there is nothing to find.
        return {
            name: 100 * float(value)
            for name, value in zip(self._metric.names, scoring.stats, strict=True)
            if name is not None and value >= 0
        }

    @cached_property
    def _truth(self) -> Any:
        return COCO(str(self._annotations))


def _load_results(truth: Any, results: list[dict[str, Any]]) -> Any:
    if results:
        return truth.loadRes(results)
    empty = COCO()
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty


@torch.inference_mode()
def evaluate(
    detector: nn.Module,
    batches: Iterable[Batch],
    *,
    num_images: int,
    scorer: Scorer,
    category_ids: Sequence[int],
    normalisation: NormalisationConfig,
    device: torch.device,
    should_stop: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Detect in this rank's images and score those of all ranks together.

    Every rank must call this. `should_stop` is asked before each image, equally often on every rank even if
    they have unequal shares, so it may itself agree with the other ranks; it must answer the same on all.

    Args:
        detector: has ``detect(images, scale_factors)``; left in the mode it was in.
        batches: this rank's share, batches of one image.
        num_images: images of the whole split.
        scorer: for the split's annotation file; used on rank 0 only.
        category_ids: the file's ids of the labels 1, 2, ...
        normalisation: as the detector was trained with.
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
                tables += detect(detector, batch, normalisation=normalisation, device=device)
    finally:
        detector.train(was_training)
    gathered = dist.gather(DetectionTable.joined(tables))
    if not gathered:
        return None
    detections = DetectionTable.joined(gathered)
    results = detections.to_coco(None if scorer.is_proposal else category_ids)
    return Evaluation(metrics=scorer.score(results), detections=detections)


def detect(
    detector: Any, batch: Batch, *, normalisation: NormalisationConfig, device: torch.device
) -> list[DetectionTable]:
    """What `detector`, in evaluation mode on `device`, finds in each image of a batch from a loader."""
    image_ids = batch.image_ids.tolist()
    batch = batch.to(device)
    found = detector.detect(normalise(batch, normalisation), batch.scale_factors)
    return [
        DetectionTable.of_image(image_id, detections=detections)
        for image_id, detections in zip(image_ids, found, strict=True)
    ]
