"""COCO's figures for detections, by pycocotools: average precision of boxes and masks, recall of proposals.

A scorer keeps the annotations of a split parsed between evaluations.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kubedet_trainer.config.recipe import EvaluationKind
from kubedet_trainer.evaluation import recall
from kubedet_trainer.evaluation.detections import DetectionTable
from kubedet_trainer.evaluation.voc import VocScorer


class Scorer(Protocol):
    """Compares detections with the annotations of a split."""

    def score(self, detections: DetectionTable) -> dict[str, float]:
        """Figures by name, in percent; an image without detections counts as empty."""
        ...


def build_scorer(kind: EvaluationKind, *, annotations: Path) -> Scorer:
    """The scorer for a split.

    Args:
        kind: ``bbox`` for average precision of boxes, ``segm`` of boxes and masks, ``proposal`` for recall of
            boxes of any class, ``voc`` for PASCAL VOC's precision of boxes.
        annotations: COCO annotation file of the split.
    """
    return VocScorer(annotations) if kind == "voc" else CocoScorer(annotations, kind=kind)


@dataclass(frozen=True, kw_only=True)
class _Metric:
    """How pycocotools is asked, and what its twelve figures are called here (None: meaningless here)."""

    iou_type: str
    names: tuple[str | None, ...]
    use_categories: bool = True
    max_detections: tuple[int, int, int] = (1, 10, 100)


def _precision(kind: str, *, iou_type: str) -> _Metric:
    figures = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
    return _Metric(iou_type=iou_type, names=tuple(f"{kind}{figure}" for figure in figures))


_BOXES = _precision("box", iou_type="bbox")
_METRICS: Mapping[str, tuple[_Metric, ...]] = {
    "bbox": (_BOXES,),
    "segm": (_BOXES, _precision("mask", iou_type="segm")),
    "proposal": (
        _Metric(
            iou_type="bbox",
            names=(*[None] * 6, "ar100", "ar300", "ar1000", "ar1000s", "ar1000m", "ar1000l"),
            use_categories=False,
            max_detections=(100, 300, 1000),
        ),
    ),
}


class CocoScorer:
    """A `Scorer` of the kinds ``bbox``, ``segm`` and ``proposal``.

    As results carry boxes and masks, pycocotools sorts both into small, medium and large by the area of the
    detected box; the zoo's figures come from that.
    """

    def __init__(self, annotations: Path, *, kind: str) -> None:
        self._annotations = annotations
        self._kind = kind

    def score(self, detections: DetectionTable) -> dict[str, float]:
        """The figures in percent; absent where the split has no such ground truth, say no small object."""
        # pycocotools prints its progress, which would end up between the lines of the log.
        with contextlib.redirect_stdout(io.StringIO()):
            truth = self._truth
            category_ids = [category["id"] for category in truth.dataset["categories"]]
            results = _load_results(
                truth, detections.to_coco(None if self._kind == "proposal" else category_ids)
            )
            figures: dict[str, float] = {}
            for metric in _METRICS[self._kind]:
                # Without masks it would silently compare boxes in their place.
                assert metric.iou_type == "bbox" or detections.masks is not None or not len(detections)
                figures |= _score(truth, results, metric)
        if self._kind == "proposal" and (fast := _recall_fast(truth, detections)) is not None:
            figures["ar1000Fast"] = fast
        return figures

    @cached_property
    def _truth(self) -> Any:
        return COCO(str(self._annotations))


def _score(truth: Any, results: Any, metric: _Metric) -> dict[str, float]:
    scoring = COCOeval(truth, results, iouType=metric.iou_type)
    scoring.params.useCats = int(metric.use_categories)
    scoring.params.maxDets = list(metric.max_detections)
    scoring.evaluate()
    scoring.accumulate()
    scoring.summarize()
    # pycocotools says -1 where there is nothing to find.
    return {
        name: 100 * float(value)
        for name, value in zip(metric.names, scoring.stats, strict=True)
        if name is not None and value >= 0
    }


def _recall_fast(truth: Any, table: DetectionTable) -> float | None:
    """The zoo's other evaluator of proposals; which one its page shows is not known (`zoo.md` 10)."""
    boxes: dict[int, list[list[float]]] = {number: [] for number in truth.getImgIds()}
    for record in truth.dataset["annotations"]:
        if not (record.get("iscrowd") or record.get("ignore")):
            x, y, width, height = record["bbox"]
            boxes[record["image_id"]].append([x, y, x + width - 1, y + height - 1])
    return recall.recall_of_best(
        {number: np.array(own, np.float32).reshape(-1, 4) for number, own in boxes.items()},
        image_ids=table.image_ids,
        boxes=table.boxes,
        scores=table.scores,
        limit=1000,
    )


def _load_results(truth: Any, results: list[dict[str, Any]]) -> Any:
    if results:
        return truth.loadRes(results)
    empty = COCO()
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty
