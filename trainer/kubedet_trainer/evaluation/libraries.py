"""The libraries that compare detections with annotations as COCO does: hotcoco, and its judge, pycocotools.

Both make the same tables to the last bit, as a test shows, and hotcoco takes a small part of the time
(`benchmarks/evaluation.py`). Neither sees the ids of the files, but their places in order: equal scores are
counted in this order, and hotcoco takes no negative ids.

Source of what they compute: Lin et al., 2014; `docs/zoo.md`, 10.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol

import hotcoco
import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kubedet_trainer.data import run_lengths
from kubedet_trainer.data.arrays import Truth
from kubedet_trainer.evaluation.detections import DetectionTable
from kubedet_trainer.evaluation.scores import Matching

_ALL_SIZES = [0.0, 1e10]
"""COCO's range of areas that has every object."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is to be compared."""

    iou_type: Literal["bbox", "segm"]
    use_categories: bool = True
    max_detections: tuple[int, int, int]
    """How many of an image count, in turn."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tables:
    """The answer to one question, -1 where there is nothing to find.

    The axes are T overlaps, R recalls, K classes in the order of their ids, A ranges of areas (all, small,
    medium, large) and M limits of detections.
    """

    precision: NDArray[np.float64]
    """(T, R, K, A, M)"""
    recall: NDArray[np.float64]
    """(T, K, A, M)"""
    overlaps: NDArray[np.float64]
    """(T,) 0.50, 0.55, ..., 0.95."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """All that a comparison gives."""

    tables: list[Tables]
    """Of each question."""
    matching: Matching
    """By the first question."""


class Library(Protocol):
    """Compares detections with the annotations of a split."""

    def compare(self, detections: DetectionTable, questions: Sequence[Question]) -> Answer:
        """Answer `questions` about `detections`; an image without any counts as empty."""
        ...


class Hotcoco:
    """A `Library`: the fast one."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth

    def compare(self, detections: DetectionTable, questions: Sequence[Question]) -> Answer:
        """Answer `questions` about `detections`; an image without any counts as empty."""
        ordered = _in_order(detections, self._truth)
        results = self._load(ordered)
        tables = [
            _ask(hotcoco.COCOeval(self._ground_truth, results, question.iou_type), question)
            for question in questions
        ]
        return Answer(tables=tables, matching=self._match(ordered, questions[0]))

    def _match(self, ordered: DetectionTable, question: Question) -> Matching:
        """Match again, at one overlap and only where there are objects: to read all matches takes seconds."""
        truth = self._truth
        objects = places(truth.image_ids)[truth.rows], places(truth.category_ids)[truth.labels - 1]
        occupied = self._cells(*objects, question)
        cells = self._cells(ordered.image_ids, ordered.labels, question)
        near = np.isin(cells, occupied)
        found = np.full(len(ordered), -1)
        is_counted = _are_best(cells, _comparable(ordered.scores), limit=question.max_detections[-1])
        matcher: Any = hotcoco.COCOeval(self._ground_truth, self._load(ordered.rows(near)), question.iou_type)
        matcher.params.iouThrs, matcher.params.areaRng = [0.5], [_ALL_SIZES]
        matcher.params.areaRngLbl = ["all"]
        _prepare(matcher, question)
        matcher.evaluate()
        matching = _matching(matcher, num_detections=int(near.sum()))
        found[near], is_counted[near] = matching.found, matching.is_counted
        return Matching(found=found, is_counted=is_counted)

    def _cells(
        self, images: NDArray[np.int64], labels: NDArray[np.int64], question: Question
    ) -> NDArray[np.int64]:
        """(N,) a number for what is compared together: an image, or a class in it."""
        return images * (len(self._truth.category_ids) + 1) + labels if question.use_categories else images

    @cached_property
    def _ground_truth(self) -> hotcoco.COCO:
        return hotcoco.COCO(_to_coco(self._truth))

    def _load(self, detections: DetectionTable) -> hotcoco.COCO:
        if not len(detections):
            return hotcoco.COCO(_to_coco(self._truth) | {"annotations": []})
        scores = _comparable(detections.scores)
        columns = (detections.image_ids, detections.coco_boxes(), scores, detections.labels)
        masks: list[Any] | None = None
        if detections.masks is not None and detections.mask_sizes is not None:
            sizes = detections.mask_sizes.tolist()
            masks = [
                {"size": size, "counts": code} for size, code in zip(sizes, detections.masks, strict=True)
            ]
        rows = np.column_stack(columns).astype(np.float64)
        return self._ground_truth.load_res(rows, segmentation=masks)


def _comparable(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """hotcoco refuses a score that is not a number; pycocotools sorts it behind all others."""
    return np.nan_to_num(scores.astype(np.float64), nan=-1.0)


def _are_best(cells: NDArray[np.int64], scores: NDArray[np.float64], *, limit: int) -> NDArray[np.bool_]:
    """(D,) whether a detection is among the `limit` best of its cell; of equal scores the first is."""
    order = np.lexsort((-scores, cells))
    ranks = np.arange(len(order)) - np.searchsorted(cells[order], cells[order])
    are_best = np.empty(len(order), np.bool_)
    are_best[order] = ranks < limit
    return are_best


class Pycocotools:
    """A `Library`: the reference."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth

    def compare(self, detections: DetectionTable, questions: Sequence[Question]) -> Answer:
        """Answer `questions` about `detections`; an image without any counts as empty."""
        # It prints its progress, which would end up between the lines of the log.
        with contextlib.redirect_stdout(io.StringIO()):
            results = self._load(_in_order(detections, self._truth))
            evaluators = [COCOeval(self._ground_truth, results, question.iou_type) for question in questions]
            tables = [_ask(*pair) for pair in zip(evaluators, questions, strict=True)]
        return Answer(tables=tables, matching=_matching(evaluators[0], num_detections=len(detections)))

    @cached_property
    def _ground_truth(self) -> Any:
        return _indexed(_to_coco(self._truth))

    def _load(self, detections: DetectionTable) -> Any:
        # Proposals, too: it drops a category that the data do not have, even if none counts.
        results = detections.to_coco(range(1, len(self._truth.category_ids) + 1))
        if results:
            return self._ground_truth.loadRes(results)
        return _indexed({**self._ground_truth.dataset, "annotations": []})


def _indexed(document: dict[str, Any]) -> Any:
    coco = COCO()
    coco.dataset = document
    coco.createIndex()
    return coco


def places(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) the place of each of N ids among all in order, 1 and up."""
    return np.argsort(np.argsort(ids)) + 1


def _in_order(detections: DetectionTable, truth: Truth) -> DetectionTable:
    """The detections with the places of their images and classes instead of ids and labels."""
    return replace(
        detections,
        image_ids=np.searchsorted(np.sort(truth.image_ids), detections.image_ids) + 1,
        labels=places(truth.category_ids)[detections.labels - 1],
    )


def _to_coco(truth: Truth) -> dict[str, Any]:
    """A document whose ids are places; those of annotations are 1, 2, ..., since 0 means "no match"."""
    image_places, class_places = places(truth.image_ids), places(truth.category_ids)
    columns = zip(
        image_places[truth.rows].tolist(),
        class_places[truth.labels - 1].tolist(),
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
    sizes = zip(image_places.tolist(), truth.sizes.tolist(), strict=True)
    return {
        "images": [{"id": number, "height": height, "width": width} for number, (height, width) in sizes],
        "annotations": annotations,
        "categories": [{"id": number, "name": str(number)} for number in class_places.tolist()],
    }


def _outlines(truth: Truth) -> Iterator[dict[str, Any]]:
    """Run lengths of all annotations; of a crowd or an ignored object without any the box."""
    if truth.mask_spans is None or truth.mask_bytes is None:
        return
    sizes = truth.sizes[truth.rows].tolist()
    for (start, end), size, box in zip(truth.mask_spans.tolist(), sizes, truth.boxes, strict=True):
        code = truth.mask_bytes[start:end].tobytes()
        yield {"size": size, "counts": code or run_lengths.of_box(box.tolist(), size=(size[0], size[1]))}


def _prepare(evaluator: Any, question: Question) -> None:
    evaluator.params.useCats = question.use_categories
    evaluator.params.maxDets = list(question.max_detections)


def _ask(evaluator: Any, question: Question) -> Tables:
    _prepare(evaluator, question)
    evaluator.evaluate()
    evaluator.accumulate()
    return Tables(
        precision=evaluator.eval["precision"],
        recall=evaluator.eval["recall"],
        overlaps=np.asarray(evaluator.params.iouThrs),
    )


def _matching(evaluator: Any, *, num_detections: int) -> Matching:
    """What was matched at the lowest overlap, one half, in objects of any size.

    The ids of detections and annotations count them from 1.
    """
    num_images, num_areas = len(evaluator.params.imgIds), len(evaluator.params.areaRng)
    found_in = evaluator.evalImgs
    records = [
        record
        for start in range(0, len(found_in), num_images * num_areas)
        for record in found_in[start : start + num_images]
        if record is not None
    ]

    def column(values: Iterator[Any], kind: type[np.generic]) -> NDArray[Any]:
        return np.fromiter(itertools.chain.from_iterable(values), kind)

    rows = column((record["dtIds"] for record in records), np.int64) - 1
    objects = column((record["dtMatches"][0] for record in records), np.int64) - 1
    is_ignored = column((record["dtIgnore"][0] for record in records), np.bool_)
    found = np.full(num_detections, -1)
    found[rows] = np.where(is_ignored, -1, objects)
    is_counted = np.zeros(num_detections, np.bool_)
    is_counted[rows] = ~is_ignored
    return Matching(found=found, is_counted=is_counted)
