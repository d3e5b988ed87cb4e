"""COCO's figures for detections: average precision of boxes and masks, recall of proposals.

A scorer is given the annotations as training knows them, never the user's files. It keeps what the library
makes of them between evaluations.

Source of the figures: Lin et al., 2014; `docs/zoo.md`, 10.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kubedet_trainer.config.recipe import EvaluationKind
from kubedet_trainer.data.arrays import Truth
from kubedet_trainer.evaluation import libraries, recall
from kubedet_trainer.evaluation.detections import DetectionTable
from kubedet_trainer.evaluation.libraries import Answer, Hotcoco, Library, Pycocotools, Question, Tables
from kubedet_trainer.evaluation.scores import ClassScores, Scores, mean_known
from kubedet_trainer.evaluation.voc import VocScorer

_log = logging.getLogger(__name__)


class Scorer(Protocol):
    """Compares detections with the annotations of a split."""

    def score(self, detections: DetectionTable) -> Scores:
        """How good `detections` are; an image without any counts as empty."""
        ...


def build_scorer(
    kind: EvaluationKind, *, truth: Truth | None, max_detections: int = 100, is_judged: bool = False
) -> Scorer:
    """The scorer for a split.

    Args:
        kind: ``bbox`` for average precision of boxes, ``segm`` of boxes and masks, ``proposal`` for recall of
            boxes of any class, ``voc`` for PASCAL VOC's precision of boxes.
        truth: what the split's annotations say, read with `Reading.truth`.
        max_detections: the best of an image that count for ``bbox`` and ``segm``.
        is_judged: whether the figures are to be those of the reference, pycocotools, which takes minutes
            for COCO; a difference to the fast library is a warning in the log.
    """
    assert truth is not None, "the split was not read with Reading.truth"
    if kind == "voc":
        return VocScorer(truth)
    return CocoScorer(
        truth,
        kind=kind,
        max_detections=max_detections,
        library=Hotcoco(truth),
        judge=Pycocotools(truth) if is_judged else None,
    )


@dataclass(frozen=True, kw_only=True)
class _Metric:
    """What a library is asked, and what the twelve figures are called here (None: meaningless here)."""

    question: Question
    names: tuple[str | None, ...]


def _metrics(kind: str, *, limit: int) -> tuple[_Metric, ...]:
    figures = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", f"AR{limit}", "ARs", "ARm", "ARl")
    limits = (1, 10, limit)
    boxes = _Metric(
        question=Question(iou_type="bbox", max_detections=limits),
        names=tuple(f"box{figure}" for figure in figures),
    )
    masks = _Metric(
        question=Question(iou_type="segm", max_detections=limits),
        names=tuple(f"mask{figure}" for figure in figures),
    )
    proposals = _Metric(
        question=Question(iou_type="bbox", use_categories=False, max_detections=(100, 300, 1000)),
        names=(*[None] * 6, "ar100", "ar300", "ar1000", "ar1000s", "ar1000m", "ar1000l"),
    )
    return {"bbox": (boxes,), "segm": (boxes, masks), "proposal": (proposals,)}[kind]


class CocoScorer:
    """A `Scorer` of the kinds ``bbox``, ``segm`` and ``proposal``.

    As results carry boxes and masks, both are sorted into small, medium and large by the area of the detected
    box; the zoo's figures come from that.
    """

    def __init__(
        self,
        truth: Truth,
        *,
        kind: str,
        max_detections: int = 100,
        library: Library,
        judge: Library | None = None,
    ) -> None:
        """Compare with `truth`, by `library`, whose word counts unless there is a `judge`."""
        self._annotations = truth
        self._kind = kind
        self._metrics = _metrics(kind, limit=max_detections)
        self._library = library
        self._judge = judge

    def score(self, detections: DetectionTable) -> Scores:
        """Average precision of the split and of each class; for proposals the recall."""
        questions = [metric.question for metric in self._metrics]
        # Without masks a library would silently compare boxes in their place.
        assert self._kind != "segm" or detections.masks is not None or not len(detections)
        if self._judge is None:
            return self._scores(detections, self._library.compare(detections, questions))
        scores = self._scores(detections, self._judge.compare(detections, questions))
        try:
            own = self._scores(detections, self._library.compare(detections, questions))
        except Exception as error:  # whatever it is, the figures are there
            _log.warning("hotcoco failed: %r; the figures are those of pycocotools", error)
        else:
            _warn_of_differences(own, scores)
        return scores

    def _scores(self, detections: DetectionTable, answer: Answer) -> Scores:
        figures: dict[str, float] = {}
        for metric, tables in zip(self._metrics, answer.tables, strict=True):
            figures |= _figures(metric, tables)
        if self._kind == "proposal" and (fast := _recall_fast(self._annotations, detections)) is not None:
            figures["ar1000Fast"] = fast
        boxes = answer.tables[0]
        has_classes = self._kind != "proposal"
        return Scores(
            figures=figures,
            classes=self._classes(answer.tables) if has_classes else [],
            curves=_curves(boxes) if has_classes else {},
            recalls={} if has_classes else _recalls(boxes),
            matching=answer.matching,
        )

    def _classes(self, answers: list[Tables]) -> list[ClassScores]:
        """Of the labels 1, 2, ...; libraries order the classes by their ids."""
        classes = []
        for place in libraries.places(self._annotations.category_ids).tolist():
            figures: dict[str, float] = {}
            for metric, tables in zip(self._metrics, answers, strict=True):
                figures |= _figures(metric, tables, column=place - 1)
            curve = answers[0].precision[0, :, place - 1, 0, -1]
            classes.append(ClassScores(figures=figures, curve=curve if (curve > -1).all() else None))
        return classes


def _warn_of_differences(own: Scores, judged: Scores) -> None:
    different = [
        f"{name} {own.figures.get(name)} instead of {value}"
        for name, value in judged.figures.items()
        if own.figures.get(name) != value
    ]
    different += [
        f"figures of label {label}"
        for label, (ours, theirs) in enumerate(zip(own.classes, judged.classes, strict=True), start=1)
        if ours.figures != theirs.figures
    ]
    if different:
        _log.warning(
            "hotcoco has other figures than pycocotools, by which the row goes: %s", ", ".join(different[:5])
        )


def _figures(metric: _Metric, tables: Tables, *, column: int | None = None) -> dict[str, float]:
    """The figures of all classes, or the precisions of the one at `column` of the tables."""
    classes = slice(None) if column is None else slice(column, column + 1)
    precision, recall = tables.precision[:, :, classes], tables.recall[:, classes]
    values = list(_precisions(precision, tables.overlaps))
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


def _curves(tables: Tables) -> dict[str, NDArray[np.float64]]:
    precision = tables.precision[:, :, :, 0, -1]
    known = precision[:, :, (precision > -1).all(axis=(0, 1))]
    if not known.size:
        return {}
    overlaps = tables.overlaps
    means = {f"{overlap:.2f}": known[overlaps == overlap].mean(axis=(0, 2)) for overlap in (0.5, 0.75)}
    return {**means, "0.50:0.95": known.mean(axis=(0, 2))}


def _recalls(tables: Tables) -> dict[str, float]:
    """Of the most proposals that count, by overlap."""
    values = tables.recall[:, 0, 0, -1]
    return {
        f"{overlap:.2f}": 100 * float(value)
        for overlap, value in zip(tables.overlaps, values, strict=True)
        if value > -1
    }


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
