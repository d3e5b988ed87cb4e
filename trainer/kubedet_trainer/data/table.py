"""A COCO annotation file as arrays, word for word, and the rules that its content must keep.

Nothing is converted or left out here; `coco` makes the trainer's view of it. Imports no torch.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kubedet_trainer.data.json_records import read_records
from kubedet_trainer.errors import MissingInput

BOX_TOLERANCE_PIXELS = 1.0
"""How far a box may reach beyond its image. Tools round corners differently, some count from 1; what sticks
out by less is cut off by the transforms."""

_CROWD, _IGNORED = 1, 2

_COCO_FLAT_IMAGES = (200365, 550395)
"""Images of COCO train2017 with a box of no height (cocodataset/cocoapi issue 355). The zoo skipped these
boxes, and nobody can be asked to correct COCO; everywhere else a box without area is refused."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One violation of a rule by a data set."""

    file: str
    """The annotation file or the image."""
    id: int | None
    """Of the annotation, image or category that `rule` speaks of; None where it has none."""
    rule: str
    """The rule's name, ``box-outside``."""
    message: str
    """What was found and what must hold."""

    def __str__(self) -> str:
        return f"{self.file}: {self.message} [{self.rule}]"


@dataclass(frozen=True, kw_only=True)
class AnnotationTable:
    """The file's three sections in the file's order. N images, M annotations, C categories."""

    file: Path
    image_ids: NDArray[np.int64]
    """(N,)"""
    image_sizes: NDArray[np.int64]
    """(N, 2) height and width."""
    file_names: list[str]
    annotation_ids: NDArray[np.int64]
    """(M,)"""
    annotation_image_ids: NDArray[np.int64]
    """(M,)"""
    annotation_category_ids: NDArray[np.int64]
    """(M,)"""
    boxes: NDArray[np.float64]
    """(M, 4) x, y, width, height as in the file."""
    areas: NDArray[np.float64]
    """(M,) of the segmentation; the box's own where the file gives none."""
    crowd: NDArray[np.bool_]
    """(M,)"""
    ignored: NDArray[np.bool_]
    """(M,)"""
    category_ids: list[int]
    classes: list[str]
    malformed: list[Problem]
    """Records that are not in the arrays because a field is absent or of the wrong type."""


def read_table(file: Path) -> AnnotationTable:
    """Read a COCO annotation file.

    Raises:
        MissingInput: there is no such file.
        InvalidInput: the file is not JSON.
    """
    if not file.is_file():
        raise MissingInput(f"{file}: no such annotation file")
    columns = _Columns(file)
    for record in read_records(file):
        columns.add(record.section, index=record.position, value=record.value)
    return columns.table()


class _Columns:
    """Growing columns; `array` holds 8 bytes a number where a list would hold an object."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._images = array("q")
        self._file_names: list[str] = []
        self._ids = array("q")
        self._boxes = array("d")
        self._flags = array("b")
        self._categories: list[tuple[int, str]] = []
        self._malformed: list[Problem] = []
        self._readers = {
            "images": self._add_image,
            "annotations": self._add_annotation,
            "categories": self._add_category,
        }

    def add(self, section: str, *, index: int, value: Any) -> None:
        if (reader := self._readers.get(section)) is None:
            return
        try:
            reader(value, index)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            reason = f"field {error} is absent" if isinstance(error, KeyError) else str(error)
            identity = value.get("id") if isinstance(value, Mapping) else None
            self._malformed.append(
                Problem(
                    file=str(self._file),
                    id=identity if isinstance(identity, int) else None,
                    rule="malformed-record",
                    message=f"{section}[{index}]: {reason}",
                )
            )

    def _add_image(self, value: Any, _: int) -> None:
        row = array("q", (value["id"], value["height"], value["width"]))
        self._file_names.append(str(value["file_name"]))
        self._images.extend(row)

    def _add_annotation(self, value: Any, index: int) -> None:
        x, y, width, height = value["bbox"]
        area = value.get("area")
        # Both rows are made before either is kept: a record is taken whole or not at all.
        numbers = array("d", (x, y, width, height, width * height if area is None else area))
        ids = array("q", (value.get("id", index), value["image_id"], value["category_id"]))
        self._boxes.extend(numbers)
        self._ids.extend(ids)
        self._flags.append(_CROWD * bool(value.get("iscrowd")) + _IGNORED * bool(value.get("ignore")))

    def _add_category(self, value: Any, _: int) -> None:
        self._categories.append((int(value["id"]), str(value.get("name", value["id"]))))

    def table(self) -> AnnotationTable:
        images = np.array(self._images, np.int64).reshape(-1, 3)
        ids = np.array(self._ids, np.int64).reshape(-1, 3)
        boxes = np.array(self._boxes, np.float64).reshape(-1, 5)
        flags = np.array(self._flags, np.int8)
        return AnnotationTable(
            file=self._file,
            image_ids=images[:, 0],
            image_sizes=images[:, 1:],
            file_names=self._file_names,
            annotation_ids=ids[:, 0],
            annotation_image_ids=ids[:, 1],
            annotation_category_ids=ids[:, 2],
            boxes=boxes[:, :4],
            areas=boxes[:, 4],
            crowd=(flags & _CROWD) > 0,
            ignored=(flags & _IGNORED) > 0,
            category_ids=[number for number, _ in self._categories],
            classes=[name for _, name in self._categories],
            malformed=self._malformed,
        )


def image_rows(table: AnnotationTable) -> NDArray[np.int64]:
    """(M,) for each annotation the row of its image, -1 where there is none such."""
    return _rows_of(table.annotation_image_ids, known=table.image_ids)


def labels(table: AnnotationTable) -> NDArray[np.int64]:
    """(M,) for each annotation its category's position in the file plus 1, 0 where it is unknown."""
    return _rows_of(table.annotation_category_ids, known=np.array(table.category_ids, np.int64)) + 1


def _rows_of(values: NDArray[np.int64], *, known: NDArray[np.int64]) -> NDArray[np.int64]:
    if not len(known):
        return np.full(len(values), -1, np.int64)
    order = np.argsort(known, kind="stable")
    found = order[np.searchsorted(known, values, sorter=order).clip(max=len(known) - 1)]
    return np.where(known[found] == values, found, -1)


def problems(table: AnnotationTable) -> Iterator[Problem]:
    """Every violation that the annotation file alone shows, without looking at the images."""
    yield from table.malformed
    for section, ids in (
        ("image", table.image_ids),
        ("annotation", table.annotation_ids),
        ("category", np.array(table.category_ids, np.int64)),
    ):
        unique, counts = np.unique(ids, return_counts=True)
        for number in unique[counts > 1].tolist():
            yield _problem(
                table, number, "duplicate-id", f"{section} {number}: the id is used more than once"
            )
    if not table.category_ids:
        yield _problem(table, None, "unknown-category", "categories: got none, must list at least one")
    for row in np.flatnonzero((table.image_sizes <= 0).any(axis=1)).tolist():
        height, width = table.image_sizes[row].tolist()
        number = int(table.image_ids[row])
        yield _problem(table, number, "image-size", f"image {number}: got {width}x{height}, must be >= 1x1")
    yield from _annotation_problems(table)


def _annotation_problems(table: AnnotationTable) -> Iterator[Problem]:
    rows = image_rows(table)
    sizes = np.where(rows[:, None] >= 0, table.image_sizes[rows], 0) if len(table.image_ids) else None
    for row in np.flatnonzero(rows < 0).tolist():
        got = f"image_id {table.annotation_image_ids[row]}, must be the id of an image"
        yield _annotation_problem(table, row, "unknown-image", got)
    for row in np.flatnonzero(labels(table) == 0).tolist():
        got = f"category_id {table.annotation_category_ids[row]}, must be the id of a category"
        yield _annotation_problem(table, row, "unknown-category", got)
    finite = np.isfinite(table.boxes).all(axis=1)
    flat = ~finite | (table.boxes[:, 2:] <= 0).any(axis=1)
    flat &= ~(np.isin(table.annotation_image_ids, _COCO_FLAT_IMAGES) & (table.boxes[:, 2:].max(axis=1) > 0))
    for row in np.flatnonzero(flat).tolist():
        got = f"box {table.boxes[row].tolist()}, must have finite corners and width and height > 0"
        yield _annotation_problem(table, row, "zero-area", got)
    if sizes is None:
        return
    low, high = table.boxes[:, :2], table.boxes[:, :2] + table.boxes[:, 2:]
    outside = (low < -BOX_TOLERANCE_PIXELS) | (high > sizes[:, ::-1] + BOX_TOLERANCE_PIXELS)
    for row in np.flatnonzero(outside.any(axis=1) & (rows >= 0)).tolist():
        height, width = sizes[row].tolist()
        got = f"box {table.boxes[row].tolist()}, must lie within the image's {width}x{height} pixels"
        yield _annotation_problem(table, row, "box-outside", got)


def _annotation_problem(table: AnnotationTable, row: int, rule: str, got: str) -> Problem:
    number = int(table.annotation_ids[row])
    image = int(table.annotation_image_ids[row])
    return _problem(table, number, rule, f"annotation {number} of image {image}: got {got}")


def _problem(table: AnnotationTable, number: int | None, rule: str, message: str) -> Problem:
    return Problem(file=str(table.file), id=number, rule=rule, message=message)
