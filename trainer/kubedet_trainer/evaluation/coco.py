"""COCO's figures for detections, by pycocotools: average precision of boxes and masks, recall of proposals.

A scorer is given the annotations as training knows them, never the user's files. It keeps what pycocotools
makes of them between evaluations.

Source of the figures: Lin et al., 2014; `docs/zoo.md`, 10.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kubedet_trainer.config.recipe import EvaluationKind
from kubedet_trainer.data import run_lengths
from kubedet_trainer.data.arrays import Truth
from kubedet_trainer.evaluation import recall
from kubedet_trainer.evaluation.detections import DetectionTable
from kubedet_trainer.evaluation.scores import ClassScores, Matching, Scores, mean_known
from kubedet_trainer.evaluation.voc import VocScorer


class Scorer(Protocol):
    """Compares detections with the annotations of a split."""

    def score(self, detections: DetectionTable) -> Scores:
        """How good `detections` are; an image without any counts as empty."""
        ...


def build_scorer(kind: EvaluationKind, *, truth: Truth | None, max_detections: int = 100) -> Scorer:
    """The scorer for a split.

    Args:
        kind: ``bbox`` for average precision of boxes, ``segm`` of boxes and masks, ``proposal`` for recall of
            boxes of any class, ``voc`` for PASCAL VOC's precision of boxes.
        truth: what the split's annotations say, read with `Reading.truth`.
        max_detections: the best of an image that count for ``bbox`` and ``segm``.
    """
    assert truth is not None, "the split was not read with Reading.truth"
    if kind == "voc":
        return VocScorer(truth)
    return CocoScorer(truth, kind=kind, max_detections=max_detections)


@dataclass(frozen=True, kw_only=True)
class _Metric:
    """How pycocotools is asked, and what its twelve figures are called here (None: meaningless here)."""

    iou_type: str
    names: tuple[str | None, ...]
    use_categories: bool = True
    max_detections: tuple[int, int, int]


def _precision(kind: str, *, iou_type: str, limit: int) -> _Metric:
    figures = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", f"AR{limit}", "ARs", "ARm", "ARl")
    names = tuple(f"{kind}{figure}" for figure in figures)
    return _Metric(iou_type=iou_type, names=names, max_detections=(1, 10, limit))


def _metrics(kind: str, *, limit: int) -> tuple[_Metric, ...]:
    boxes = _precision("box", iou_type="bbox", limit=limit)
    if kind == "bbox":
        return (boxes,)
    if kind == "segm":
        return (boxes, _precision("mask", iou_type="segm", limit=limit))
    names = (*[None] * 6, "ar100", "ar300", "ar1000", "ar1000s", "ar1000m", "ar1000l")
    return (_Metric(iou_type="bbox", names=names, use_categories=False, max_detections=(100, 300, 1000)),)


class CocoScorer:
    """A `Scorer` of the kinds ``bbox``, ``segm`` and ``proposal``.

    As results carry boxes and masks, pycocotools sorts both into small, medium and large by the area of the
    detected box; the zoo's figures come from that.
    """

    def __init__(self, truth: Truth, *, kind: str, max_detections: int = 100) -> None:
        self._annotations = truth
        self._kind = kind
        self._metrics = _metrics(kind, limit=max_detections)

    def score(self, detections: DetectionTable) -> Scores:
        """Average precision of the split and of each class; for proposals the recall."""
        # pycocotools prints its progress, which would end up between the lines of the log.
        with contextlib.redirect_stdout(io.StringIO()):
            truth = self._truth
            # Proposals, too: pycocotools drops a category that the data do not have, even if none counts.
            category_ids = self._annotations.category_ids.tolist()
            results = _load_results(truth, detections.to_coco(category_ids))
            # Without masks it would silently compare boxes in their place.
            assert self._kind != "segm" or detections.masks is not None or not len(detections)
            accumulated = [_accumulate(truth, results, metric) for metric in self._metrics]
        figures: dict[str, float] = {}
        for metric, scoring in zip(self._metrics, accumulated, strict=True):
            figures |= _figures(metric, scoring)
        if self._kind == "proposal" and (fast := _recall_fast(self._annotations, detections)) is not None:
            figures["ar1000Fast"] = fast
        boxes = accumulated[0]
        has_classes = self._kind != "proposal"
        return Scores(
            figures=figures,
            classes=self._classes(accumulated) if has_classes else [],
            curves=_curves(boxes) if has_classes else {},
            recalls={} if has_classes else _recalls(boxes),
            matching=_matching(boxes, num_detections=len(detections)),
        )

    def _classes(self, accumulated: list[COCOeval]) -> list[ClassScores]:
        """Of the labels 1, 2, ...; pycocotools orders the classes by their ids."""
        classes = []
        for column in np.argsort(np.argsort(self._annotations.category_ids)).tolist():
            figures: dict[str, float] = {}
            for metric, scoring in zip(self._metrics, accumulated, strict=True):
                figures |= _figures(metric, scoring, column=column)
            curve = accumulated[0].eval["precision"][0, :, column, 0, -1]
            classes.append(ClassScores(figures=figures, curve=curve if (curve > -1).all() else None))
        return classes

    @cached_property
    def _truth(self) -> Any:
        """The annotations as pycocotools takes them.

        Their ids are 1, 2, ..., since 0 means "no match" to it. The ids of images and classes are the files',
        where these are numbers: in their order equal scores are counted.
        """
        truth = COCO()
        truth.dataset = _to_coco(self._annotations)
        truth.createIndex()
        return truth


def _to_coco(truth: Truth) -> dict[str, Any]:
    sizes = zip(truth.image_ids.tolist(), truth.sizes.tolist(), strict=True)
    columns = zip(
        truth.image_ids[truth.rows].tolist(),
        truth.category_ids[truth.labels - 1].tolist(),
        truth.boxes.tolist(),
        truth.areas.tolist(),
        truth.crowd.tolist(),
        truth.ignored.tolist(),
        strict=True,
    )
    annotations = [
        {
            "id": number,
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "area": area,
            # pycocotools forgets its own ``ignore``; what falls on a crowd counts neither way.
            "iscrowd": int(crowd or ignored),
        }
        for number, (image, category, box, area, crowd, ignored) in enumerate(columns, start=1)
    ]
    for record, outline in zip(annotations, _outlines(truth), strict=False):
        record["segmentation"] = outline
    return {
        "images": [{"id": number, "height": height, "width": width} for number, (height, width) in sizes],
        "annotations": annotations,
        "categories": [{"id": number} for number in truth.category_ids.tolist()],
    }


def _outlines(truth: Truth) -> Iterator[dict[str, Any]]:
    """Run lengths of all annotations; of a crowd or an ignored object without any the box."""
    if truth.mask_spans is None or truth.mask_bytes is None:
        return
    sizes = truth.sizes[truth.rows].tolist()
    for (start, end), size, box in zip(truth.mask_spans.tolist(), sizes, truth.boxes, strict=True):
        code = truth.mask_bytes[start:end].tobytes()
        yield {"size": size, "counts": code or run_lengths.of_box(box.tolist(), size=(size[0], size[1]))}


def _accumulate(truth: Any, results: Any, metric: _Metric) -> COCOeval:
    scoring = COCOeval(truth, results, iouType=metric.iou_type)
    scoring.params.useCats = int(metric.use_categories)
    scoring.params.maxDets = list(metric.max_detections)
    scoring.evaluate()
    scoring.accumulate()
    return scoring


def _figures(metric: _Metric, scoring: COCOeval, *, column: int | None = None) -> dict[str, float]:
    """The figures of all classes, or the precisions of the one at `column` of pycocotools' tables."""
    classes = slice(None) if column is None else slice(column, column + 1)
    precision, recall = scoring.eval["precision"][:, :, classes], scoring.eval["recall"][:, classes]
    values = list(_precisions(precision, scoring.params.iouThrs))
    values += _recall_figures(recall) if column is None else []
    named = zip(metric.names, values, strict=column is None)
    return {name: 100 * value for name, value in named if name is not None and value is not None}


def _precisions(precision: NDArray[np.float64], overlaps: NDArray[np.float64]) -> Iterator[float | None]:
    """The first six figures of pycocotools' ``summarize``, which knows only 100 detections an image.

    None where there is nothing to find.
    """
    for overlap in (None, 0.5, 0.75):
        chosen = slice(None) if overlap is None else overlaps == overlap
        yield mean_known(precision[chosen, :, :, 0, -1])
    for area in (1, 2, 3):
        yield mean_known(precision[:, :, :, area, -1])


def _recall_figures(recall: NDArray[np.float64]) -> Iterator[float | None]:
    """The other six."""
    for limit in (0, 1, 2):
        yield mean_known(recall[:, :, 0, limit])
    for area in (1, 2, 3):
        yield mean_known(recall[:, :, area, -1])


def _curves(scoring: COCOeval) -> dict[str, NDArray[np.float64]]:
    precision = scoring.eval["precision"][:, :, :, 0, -1]
    known = precision[:, :, (precision > -1).all(axis=(0, 1))]
    if not known.size:
        return {}
    overlaps = scoring.params.iouThrs
    means = {f"{overlap:.2f}": known[overlaps == overlap].mean(axis=(0, 2)) for overlap in (0.5, 0.75)}
    return {**means, "0.50:0.95": known.mean(axis=(0, 2))}


def _recalls(scoring: COCOeval) -> dict[str, float]:
    """Of the most proposals that count, by overlap."""
    values = scoring.eval["recall"][:, 0, 0, -1]
    overlaps = scoring.params.iouThrs
    return {
        f"{overlap:.2f}": 100 * float(value)
        for overlap, value in zip(overlaps, values, strict=True)
        if value > -1
    }


def _matching(scoring: COCOeval, *, num_detections: int) -> Matching:
    """What pycocotools matched at the lowest overlap, one half, in objects of any size.

    Its ids count the detections and the annotations from 1, see `DetectionTable.to_coco` and `_to_coco`.
    """
    num_images, num_areas = len(scoring.params.imgIds), len(scoring.params.areaRng)
    records = [
        record
        for start in range(0, len(scoring.evalImgs), num_images * num_areas)
        for record in scoring.evalImgs[start : start + num_images]
        if record is not None
    ]
    rows = np.fromiter(itertools.chain.from_iterable(record["dtIds"] for record in records), np.int64) - 1
    nothing = np.empty(0)
    objects = np.concatenate([nothing, *(record["dtMatches"][0] for record in records)]).astype(np.int64) - 1
    is_ignored = np.concatenate([nothing, *(record["dtIgnore"][0] for record in records)]).astype(np.bool_)
    found = np.full(num_detections, -1)
    found[rows] = np.where(is_ignored, -1, objects)
    is_counted = np.zeros(num_detections, np.bool_)
    is_counted[rows] = ~is_ignored
    return Matching(found=found, is_counted=is_counted)


def _recall_fast(truth: Truth, table: DetectionTable) -> float | None:
    """The zoo's other evaluator of proposals; which one its page shows is not known (`docs/zoo.md`, 10)."""
    kept = ~(truth.crowd | truth.ignored)
    boxes: dict[int, list[list[float]]] = {number: [] for number in truth.image_ids.tolist()}
    rows = zip(truth.image_ids[truth.rows[kept]].tolist(), truth.boxes[kept].tolist(), strict=True)
    for number, (x, y, width, height) in rows:
        boxes[number].append([x, y, x + width - 1, y + height - 1])
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
