"""One split on this machine: the files that describe it, read into one table. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kubedet_trainer.contract.nearest import did_you_mean
from kubedet_trainer.data.columns import MAX_PIXELS, OutlineUse, whole_numbers
from kubedet_trainer.data.table import AnnotationTable, Outlines, Place, Places, Problem


class Source(Protocol):
    """Annotation files of one format; `coco`, `voc` and `yolo` have one each."""

    @property
    def images(self) -> Path:
        """The folder that file names are relative to."""
        ...

    def identity(self) -> str:
        """Text that changes when the content of the files does."""
        ...

    def read(self, use: OutlineUse, *, max_pixels: int = MAX_PIXELS) -> AnnotationTable:
        """Everything that the files say."""
        ...


@dataclass(frozen=True, kw_only=True)
class LocalSplit:
    """Where one split lies on this machine, and how it is read."""

    sources: tuple[Source, ...]
    """Files that together are the split, at least one; all have the same folder of images."""
    name: str
    """What messages call it, ``dataset.val.annotations: /data/val.json``."""

    @property
    def images(self) -> Path:
        """The folder that file names are relative to."""
        return self.sources[0].images

    def identity(self) -> str:
        """Text that changes when the content of the files does."""
        text = "\n".join(source.identity() for source in self.sources)
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

    def read(self, use: OutlineUse, *, max_pixels: int = MAX_PIXELS) -> AnnotationTable:
        """The table of all files, one after the other.

        Raises:
            MissingInput: a file is absent.
            InvalidInput: a file is not of its format.
        """
        return join([source.read(use, max_pixels=max_pixels) for source in self.sources])


def join(tables: Sequence[AnnotationTable]) -> AnnotationTable:
    """One table of several; classes of the same name are one."""
    if len(tables) == 1:
        return tables[0]
    classes = list(dict.fromkeys(name for table in tables for name in table.classes))
    counts = np.array([len(table.file_names) for table in tables])
    starts = np.cumsum(counts) - counts
    rows = [
        np.where(table.image_rows >= 0, table.image_rows + start, -1)
        for table, start in zip(tables, starts.tolist(), strict=True)
    ]
    return AnnotationTable(
        file_names=[name for table in tables for name in table.file_names],
        image_sizes=np.concatenate([table.image_sizes for table in tables]),
        image_ids=whole_numbers([number for table in tables for number in table.image_ids.tolist()]),
        image_rows=np.concatenate(rows),
        labels=np.concatenate([_relabel(table, classes) for table in tables]),
        boxes=np.concatenate([table.boxes for table in tables]),
        areas=np.concatenate([table.areas for table in tables]),
        crowd=np.concatenate([table.crowd for table in tables]),
        ignored=np.concatenate([table.ignored for table in tables]),
        classes=tuple(classes),
        category_ids=_join_category_ids(tables, classes),
        places=_JoinedPlaces(tables=tuple(tables)),
        outlines=_join_outlines(tables),
        problems=tuple(problem for table in tables for problem in table.problems),
        notes=tuple(note for table in tables for note in table.notes),
    )


def _relabel(table: AnnotationTable, classes: Sequence[str]) -> NDArray[np.int64]:
    """The labels of `table` among `classes`, 0 where its class is not among them."""
    places = {name: label for label, name in enumerate(classes, start=1)}
    mapping = np.array([0, *(places.get(name, 0) for name in table.classes)], np.int64)
    return np.asarray(mapping[table.labels], np.int64)


def _join_category_ids(tables: Sequence[AnnotationTable], classes: Sequence[str]) -> NDArray[np.int64]:
    found: dict[str, set[int]] = {name: set() for name in classes}
    for table in tables:
        for name, number in zip(table.classes, table.category_ids.tolist(), strict=True):
            found[name].add(number)
    agreed = [next(iter(numbers)) if len(numbers) == 1 else None for numbers in found.values()]
    return whole_numbers(agreed)


def _join_outlines(tables: Sequence[AnnotationTable]) -> Outlines | None:
    parts = [table.outlines for table in tables if table.outlines is not None]
    if len(parts) != len(tables):
        return None
    sizes = np.array([len(part.codes) for part in parts])
    starts = np.cumsum(sizes) - sizes
    return Outlines(
        spans=np.concatenate([part.spans + start for part, start in zip(parts, starts, strict=True)]),
        codes=np.concatenate([part.codes for part in parts]),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _JoinedPlaces:
    """Finds rows of a joined table in the tables that it was made of."""

    tables: tuple[AnnotationTable, ...]

    def annotation(self, row: int) -> Place:
        places, own = self._of(row, [len(table.labels) for table in self.tables])
        return places.annotation(own)

    def image(self, row: int) -> Place:
        places, own = self._of(row, [len(table.file_names) for table in self.tables])
        return places.image(own)

    def reference(self, row: int, field: str) -> str:
        places, own = self._of(row, [len(table.labels) for table in self.tables])
        return places.reference(own, field)

    def box(self, row: int, box: Sequence[float]) -> str:
        places, own = self._of(row, [len(table.labels) for table in self.tables])
        return places.box(own, box)

    def _of(self, row: int, counts: Sequence[int]) -> tuple[Places, int]:
        for table, count in zip(self.tables, counts, strict=True):
            if row < count:
                return table.places, row
            row -= count
        raise IndexError(row)


def select_classes(
    table: AnnotationTable, classes: Sequence[str], *, name: str, leave_out: bool, required: bool
) -> AnnotationTable:
    """The table with these classes as its labels 1, 2, ..., matched by name.

    Args:
        table: what was read.
        classes: names of the labels.
        name: of the split, for messages.
        leave_out: whether objects of other classes are left out; otherwise they are problems.
        required: whether it is a problem if the table lacks one of the classes.
    """
    if table.classes == tuple(classes):
        return table
    labels = _relabel(table, classes)
    other = (table.labels > 0) & (labels == 0)
    counts = np.bincount(table.labels[other], minlength=len(table.classes) + 1)
    absent = [class_name for class_name in classes if class_name not in table.classes]
    messages = [
        f"got '{class_name}' in data.classes, must be one of the categories: {', '.join(table.classes)}."
        f"{did_you_mean(class_name, table.classes)}"
        for class_name in absent
        if required
    ]
    if not leave_out:
        messages += [
            f"has {counts[label]} objects of the category '{table.classes[label - 1]}', must have only those "
            f"of the classes {', '.join(classes)}"
            for label in np.flatnonzero(counts).tolist()
        ]
    problems = [Problem(file=name, id=None, rule="unknown-class", message=message) for message in messages]
    notes = [f"{name}: has no category '{class_name}'" for class_name in absent if not required]
    ids = dict(zip(table.classes, table.category_ids.tolist(), strict=True))
    changed = replace(
        table,
        labels=labels,
        classes=tuple(classes),
        category_ids=whole_numbers([ids.get(class_name) for class_name in classes]),
        num_other_classes=int(other.sum()),
        problems=(*table.problems, *problems),
        notes=(*table.notes, *notes),
    )
    # Objects of other classes are reported once for each class, above, not for each object.
    return without(changed, other)


def without(table: AnnotationTable, gone: NDArray[np.bool_]) -> AnnotationTable:
    """The table without the annotations that are `gone`, (M,)."""
    kept = np.flatnonzero(~gone)
    outlines = table.outlines
    return replace(
        table,
        image_rows=table.image_rows[kept],
        labels=table.labels[kept],
        boxes=table.boxes[kept],
        areas=table.areas[kept],
        crowd=table.crowd[kept],
        ignored=table.ignored[kept],
        places=_KeptPlaces(places=table.places, rows=kept),
        outlines=None if outlines is None else replace(outlines, spans=outlines.spans[kept]),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _KeptPlaces:
    """Finds the rows that are left of a table."""

    places: Places
    rows: NDArray[np.int64]

    def annotation(self, row: int) -> Place:
        return self.places.annotation(int(self.rows[row]))

    def image(self, row: int) -> Place:
        return self.places.image(row)

    def reference(self, row: int, field: str) -> str:
        return self.places.reference(int(self.rows[row]), field)

    def box(self, row: int, box: Sequence[float]) -> str:
        return self.places.box(int(self.rows[row]), box)
