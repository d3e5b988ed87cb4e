"""Growing columns of an `AnnotationTable`, which the readers of all formats fill row by row.

`array` holds 8 bytes a number where a list would hold an object. Imports no torch.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kubedet_trainer.data import run_lengths
from kubedet_trainer.data.run_lengths import Size
from kubedet_trainer.data.table import AnnotationTable, Outlines, Places, Problem

OutlineUse = Literal["ignore", "check", "need"]
"""What is done with outlines: nothing; those that are there are checked; or they are kept, and every object
that is learnt must have one."""

CROWD, IGNORED = 1, 2

MAX_PIXELS = 2**28
"""Of an image, unless a recipe says otherwise: 16384 x 16384."""

_LARGEST = 1e30
"""A larger number counts as infinite. No picture is so large, and the sums and products that are made of
smaller ones are finite."""


class Columns:
    """Rows that were read so far. The caller that adds one has checked the types of its values."""

    def __init__(self, use: OutlineUse, *, max_pixels: int = MAX_PIXELS) -> None:
        self._use = use
        self._max_pixels = max_pixels
        self.file_names: list[str] = []
        self.sizes: list[Size] = []
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self._places = array("q")
        self._boxes = array("d")
        self._flags = array("b")
        self._codes = bytearray()
        self._spans = array("q")
        self._waiting: dict[int, tuple[int, bytes]] = {}
        self._flaws: dict[int, str] = {}

    def annotation_images(self) -> array[int]:
        """(M,) the number of each annotation's image."""
        return self._places[::2]

    def annotation_labels(self) -> array[int]:
        """(M,) the number of each annotation's class."""
        return self._places[1::2]

    def add_image(self, file_name: str, size: Size) -> int:
        """Add an image of this height and width; its row is returned."""
        self.file_names.append(file_name)
        self.sizes.append(size)
        return len(self.sizes) - 1

    def add_annotation(
        self, numbers: Iterable[float], *, image: int, label: int, flags: int, outline: Any, size: Size | None
    ) -> None:
        """Add an annotation.

        Args:
            numbers: x, y, width, height and area.
            image: number of its image, which `table` turns into a row.
            label: number of its class, which `table` turns into a label.
            flags: `CROWD` and `IGNORED`.
            outline: its ``segmentation``; anything empty for none.
            size: of its image, None while that is not known.

        Raises:
            TypeError, ValueError, OverflowError: a number is none; then nothing was added.
        """
        # Both rows are made before either is kept: a record is taken whole or not at all.
        row = array("d", numbers)
        place = array("q", (image, label))
        self._boxes.extend(row)
        self._places.extend(place)
        self._flags.append(flags)
        if self._use == "ignore":
            return
        number = len(self._flags) - 1
        start = len(self._codes)
        if outline and size is not None:
            self._compress(number, outline, size)
        elif outline:
            # Its image stands further down in the file. Text takes a tenth of the memory of objects.
            self._waiting[number] = (image, json.dumps(outline).encode())
        self._spans.extend((start, len(self._codes)))

    def _compress(self, number: int, outline: Any, size: Size) -> None:
        if min(size) < 1 or size[0] * size[1] > self._max_pixels:
            return  # a problem of its own
        try:
            if self._use == "check":
                run_lengths.check(outline, size=size)
            else:
                self._codes += run_lengths.compress(outline, size=size)
        except ValueError as error:
            self._flaws[number] = str(error)

    def table(
        self,
        places: Places,
        *,
        image_rows: Sequence[int],
        labels: Sequence[int],
        image_ids: Sequence[object],
        classes: Sequence[str],
        category_ids: Sequence[object],
    ) -> AnnotationTable:
        """The table of all rows.

        Args:
            places: finds the rows in the user's files.
            image_rows: by number of an image its row, -1 where there is none such.
            labels: by number of a class its label, 0 where there is none such.
            image_ids: of the images, as the format has them.
            classes: names of the labels 1, 2, ...
            category_ids: of the classes, as the format has them.
        """
        for number, (image, text) in self._waiting.items():
            if image_rows[image] >= 0:
                start = len(self._codes)
                self._compress(number, json.loads(text), self.sizes[image_rows[image]])
                self._spans[2 * number], self._spans[2 * number + 1] = start, len(self._codes)
        self._waiting.clear()
        pairs = np.array(self._places, np.int64).reshape(-1, 2)
        numbers = np.array(self._boxes, np.float64).reshape(-1, 5)
        numbers[np.abs(numbers) > _LARGEST] = np.inf
        flags = np.array(self._flags, np.int8)
        boxes, areas, crowd = numbers[:, :4], numbers[:, 4], (flags & CROWD) > 0
        ignored = (flags & IGNORED) > 0
        learnt = is_learnable(boxes, areas) & ~crowd & ~ignored
        return AnnotationTable(
            file_names=self.file_names,
            image_sizes=np.array(self.sizes, np.int64).reshape(-1, 2),
            image_ids=whole_numbers(image_ids),
            image_rows=np.array(image_rows, np.int64)[pairs[:, 0]],
            labels=np.array(labels, np.int64)[pairs[:, 1]],
            classes=tuple(classes),
            category_ids=whole_numbers(category_ids),
            places=places,
            outlines=self._outlines(),
            problems=(*self.problems, *self._outline_problems(places, learnt)),
            notes=tuple(self.notes),
            boxes=boxes,
            areas=areas,
            crowd=crowd,
            ignored=ignored,
        )

    def _outlines(self) -> Outlines | None:
        if self._use != "need":
            return None
        spans = np.array(self._spans, np.int64).reshape(-1, 2)
        return Outlines(spans=spans, codes=np.frombuffer(self._codes, np.uint8))

    def _outline_problems(self, places: Places, learnt: NDArray[np.bool_]) -> Iterator[Problem]:
        for row, reason in self._flaws.items():
            place = places.annotation(row)
            message = f"{place.text}: segmentation: {reason}"
            yield Problem(file=place.file, id=place.id, rule="malformed-segmentation", message=message)
        if self._use != "need":
            return
        spans = np.array(self._spans, np.int64).reshape(-1, 2)
        needed = learnt & (spans[:, 0] == spans[:, 1])
        for row in np.flatnonzero(needed).tolist():
            if row not in self._flaws:
                place = places.annotation(row)
                reason = "is absent, must be there for a detector that learns masks"
                message = f"{place.text}: segmentation: {reason}"
                yield Problem(file=place.file, id=place.id, rule="missing-segmentation", message=message)


def is_learnable(boxes: NDArray[np.float64], areas: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(M,) whether the zoo learns from boxes of this width, height and area (`docs/zoo.md`, 1.2)."""
    return np.asarray((areas > 0) & (boxes[:, 2:] >= 1).all(axis=1), np.bool_)


def whole_numbers(ids: Sequence[object]) -> NDArray[np.int64]:
    """The ids themselves where they are whole numbers, all different; else 1, 2, ..."""
    fit = all(type(number) is int and -(2**63) <= number < 2**63 for number in ids)
    if fit and len(set(ids)) == len(ids):
        return np.array(ids, np.int64)
    return np.arange(1, len(ids) + 1)
