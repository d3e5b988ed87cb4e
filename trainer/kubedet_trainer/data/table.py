"""The annotations of one split as columns, whatever format they come in, and the rules that they must keep.

Every reader (`coco`, `voc`, `yolo`) fills an `AnnotationTable`; `arrays` makes of it what training and
evaluation use. Nothing is left out here. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

BOX_TOLERANCE_PIXELS = 1.0
"""How far a box may reach beyond its image. Tools round corners differently, some count from 1; what sticks
out by less is cut off by the transforms."""

_COCO_FLAT_IMAGES = (200365, 550395)
"""Images of COCO train2017 with a box of no height (cocodataset/cocoapi issue 355). The zoo skipped these
boxes, and nobody can be asked to correct COCO; everywhere else a box without area is refused."""

_RELATIVE_SHARE = 0.001
"""Share of a split's boxes from which on boxes within one pixel at the upper left corner are taken for boxes
in shares of the image. COCO itself has a few such boxes in 860,000."""


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
        text = f"{self.file}: {self.message} [{self.rule}]"
        return text.encode("utf-8", "backslashreplace").decode()  # a path may have bytes that no text has


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the user finds an annotation."""

    file: str
    id: int | None
    """The annotation's id, where its format has ids."""
    text: str
    """``annotation 7 of image 1``"""


class Places(Protocol):
    """Finds rows of a table in the user's files."""

    def annotation(self, row: int) -> Place:
        """Where annotation `row` stands."""
        ...

    def image(self, row: int) -> Place:
        """Where image `row` stands."""
        ...

    def reference(self, row: int, field: str) -> str:
        """What annotation `row` says in ``image_id`` or ``category_id``, for a message."""
        ...

    def box(self, row: int, box: Sequence[float]) -> str:
        """A box (x, y, width, height) as the user wrote it."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Outlines:
    """The outlines of M annotations."""

    spans: NDArray[np.int64]
    """(M, 2): the code of annotation m is ``codes[spans[m, 0]:spans[m, 1]]``, empty where it has none."""
    codes: NDArray[np.uint8]
    """Run-length codes (see `run_lengths`)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AnnotationTable:
    """One split in the order of its files. N images, M annotations, C classes."""

    file_names: list[str]
    """(N,) relative to the folder of the images, separated by slashes."""
    image_sizes: NDArray[np.int64]
    """(N, 2) height and width."""
    image_ids: NDArray[np.int64]
    """(N,) the file's where all of them are whole numbers, else 1, 2, ..."""
    image_rows: NDArray[np.int64]
    """(M,) the row of each annotation's image, -1 where there is none such."""
    labels: NDArray[np.int64]
    """(M,) position of each annotation's class plus 1, 0 where it is unknown."""
    boxes: NDArray[np.float64]
    """(M, 4) x, y, width, height; the first pixel begins at 0."""
    areas: NDArray[np.float64]
    """(M,) as the file says, else of the outline, else of the box."""
    crowd: NDArray[np.bool_]
    """(M,)"""
    ignored: NDArray[np.bool_]
    """(M,)"""
    classes: tuple[str, ...]
    category_ids: NDArray[np.int64]
    """(C,) the file's where all of them are whole numbers, else 1, 2, ..."""
    places: Places
    outlines: Outlines | None = None
    """None where they were not asked for."""
    problems: tuple[Problem, ...] = ()
    """Of what could not be read; such records are not in the columns."""
    notes: tuple[str, ...] = ()
    """What a user should know although it breaks no rule."""
    num_other_classes: int = 0
    """Annotations of classes that were not asked for; they are not in the columns."""


def problems(table: AnnotationTable) -> Iterator[Problem]:
    """Every violation that the annotations alone show, without decoding the images."""
    yield from table.problems
    for row in np.flatnonzero((table.image_sizes <= 0).any(axis=1)).tolist():
        height, width = table.image_sizes[row].tolist()
        yield _image_problem(table, row, "image-size", f"got {width}x{height}, must be >= 1x1")
    yield from _reference_problems(table)
    yield from _box_problems(table)


def _reference_problems(table: AnnotationTable) -> Iterator[Problem]:
    for rule, field_name, is_known in (
        ("unknown-image", "image_id", table.image_rows >= 0),
        ("unknown-category", "category_id", table.labels > 0),
    ):
        what = "an image" if field_name == "image_id" else "a category"
        for row in np.flatnonzero(~is_known).tolist():
            got = table.places.reference(row, field_name)
            yield _annotation_problem(table, row, rule, f"got {field_name} {got}, must be the id of {what}")


def _box_problems(table: AnnotationTable) -> Iterator[Problem]:
    boxes = table.boxes
    for row in np.flatnonzero(~np.isfinite(table.areas)).tolist():
        got = f"got area {table.areas[row]}, must be a finite number"
        yield _annotation_problem(table, row, "not-a-number", got)
    is_finite = np.isfinite(boxes).all(axis=1)
    flat = ~is_finite | (boxes[:, 2:] <= 0).any(axis=1)
    has_image = table.image_rows >= 0
    if len(table.file_names):
        is_known = has_image & np.isin(table.image_ids[table.image_rows], _COCO_FLAT_IMAGES)
        flat &= ~(is_known & (boxes[:, 2:].max(axis=1, initial=-np.inf) > 0))
    for row in np.flatnonzero(flat).tolist():
        got = table.places.box(row, boxes[row].tolist())
        message = f"got {got}, must have finite corners and width and height > 0"
        yield _annotation_problem(table, row, "zero-area", message)
    if not len(table.file_names):
        return
    sizes = np.where(has_image[:, None], table.image_sizes[table.image_rows], 0)
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    outside = (low < -BOX_TOLERANCE_PIXELS) | (high > sizes[:, ::-1] + BOX_TOLERANCE_PIXELS)
    is_sized = (sizes > 0).all(axis=1)  # else the size is a problem of its own
    for row in np.flatnonzero(outside.any(axis=1) & is_finite & is_sized).tolist():
        height, width = sizes[row].tolist()
        got = table.places.box(row, boxes[row].tolist())
        message = f"got {got}, must lie within the image's {width}x{height} pixels"
        yield _annotation_problem(table, row, "box-outside", message)
    yield from _relative_problems(table, is_relative=has_image & ~flat & (sizes > 1).all(axis=1))


def _relative_problems(table: AnnotationTable, *, is_relative: NDArray[np.bool_]) -> Iterator[Problem]:
    boxes = table.boxes
    ends = boxes[:, :2] + boxes[:, 2:]
    is_relative = is_relative & (boxes[:, :2] >= 0).all(axis=1) & (ends <= 1).all(axis=1)
    if is_relative.sum() <= _RELATIVE_SHARE * len(boxes):
        return
    for row in np.flatnonzero(is_relative).tolist():
        message = (
            f"got {table.places.box(row, boxes[row].tolist())}, which looks like shares of the image, must "
            "be pixels: multiply x and width by the image's width, y and height by its height"
        )
        yield _annotation_problem(table, row, "relative-box", message)


def _annotation_problem(table: AnnotationTable, row: int, rule: str, message: str) -> Problem:
    place = table.places.annotation(row)
    return Problem(file=place.file, id=place.id, rule=rule, message=f"{place.text}: {message}")


def _image_problem(table: AnnotationTable, row: int, rule: str, message: str) -> Problem:
    place = table.places.image(row)
    return Problem(file=place.file, id=place.id, rule=rule, message=f"{place.text}: {message}")
