"""Reads COCO annotation files: one or several JSON files a split, plain or compressed by gzip.

Ids only have to be equal: whole numbers, text, UUIDs. Text that is a whole number equals that number. Absent
fields that do no harm are filled in: ``id``, ``iscrowd``, ``area``, the size of an image. Imports no torch.
"""

from __future__ import annotations

import contextlib
import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kubedet_trainer.data import files, images, run_lengths
from kubedet_trainer.data.columns import CROWD, IGNORED, MAX_PIXELS, Columns, OutlineUse
from kubedet_trainer.data.json_records import read_records
from kubedet_trainer.data.run_lengths import Size
from kubedet_trainer.data.sources import without
from kubedet_trainer.data.table import AnnotationTable, Place, Problem

_SECTIONS = ("images", "annotations", "categories")
_NO_ID = -(2**63)


@dataclass(frozen=True, kw_only=True)
class CocoFile:
    """One annotation file and the folder that its file names are relative to."""

    file: Path
    images: Path

    def identity(self) -> str:
        """Changes when the file does: its path, size and time of change."""
        state = files.require_regular(self.file, kind="annotation file")
        return f"{self.file.resolve()}:{self.images}:{state.st_size}:{state.st_mtime_ns}"

    def read(self, use: OutlineUse, *, max_pixels: int = MAX_PIXELS) -> AnnotationTable:
        """The file's content.

        Raises:
            MissingInput: there is no such file.
            InvalidInput: it is not JSON of the right form.
        """
        files.require_regular(self.file, kind="annotation file")
        reader = _Reader(self, use, max_pixels)
        for record in read_records(self.file, arrays=_SECTIONS):
            reader.add(record.section, index=record.position, value=record.value)
        return reader.table()


class _Broken(Exception):
    """Path below the record, what was found and what must hold."""


class _Reader:
    def __init__(self, source: CocoFile, use: OutlineUse, max_pixels: int) -> None:
        self._source = source
        self._max_pixels = max_pixels
        self._wants_outlines = use != "ignore"
        self._columns = Columns(use, max_pixels=max_pixels)
        # A number for every id that is met, in the order of the first meeting, wherever that is.
        self._images: dict[Any, int] = {}
        self._rows = array("q")
        self._categories: dict[Any, int] = {}
        self._labels = array("q")
        self._annotation_ids = array("q")
        self._category_records: list[tuple[Any, str, str | None]] = []
        self._image_ids: list[Any] = []
        self._backslashes = 0
        self._refused: set[int] = set()
        self._readers: dict[str, Callable[[Any, int], None]] = {
            "images": self._add_image,
            "annotations": self._add_annotation,
            "categories": self._add_category,
        }

    def add(self, section: str, *, index: int, value: Any) -> None:
        if (reader := self._readers.get(section)) is None:
            return
        try:
            reader(value, index)
        except (_Broken, LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            path, reason = error.args if isinstance(error, _Broken) else _diagnose(section, value, error)
            identity = value.get("id") if isinstance(value, Mapping) else None
            self._problem(f"{section}[{index}]{path}: {reason}", "malformed-record", identity)
            if section == "images":
                self._refuse_image(value, index)

    def _refuse_image(self, value: Any, index: int) -> None:
        """Remember an image that could not be taken: its annotations break no rule of their own."""
        with contextlib.suppress(_Broken, AttributeError):  # nothing belongs to an image without an id
            self._refused.add(self._image_number(_identity(value.get("id", index + 1))))

    def _problem(self, message: str, rule: str, identity: object = None) -> None:
        number = identity if isinstance(identity, int) else None
        self._columns.problems.append(
            Problem(file=str(self._source.file), id=number, rule=rule, message=message)
        )

    def _add_image(self, value: Any, index: int) -> None:
        if not isinstance(value, Mapping):
            raise _Broken("", f"got {_shown(value)}, must be an object")
        number = self._image_number(_identity(value.get("id", index + 1)))
        name = _text(value, "file_name")
        if "\\" in name and not (self._source.images / name).is_file():
            name = name.replace("\\", "/")
            self._backslashes += 1
        if reason := files.inside(name):
            raise _Broken(".file_name", f"got {_shown(value['file_name'])}, {reason}")
        if self._rows[number] >= 0:
            message = f"image {_shown(value.get('id'))}: the id is used more than once"
            self._problem(message, "duplicate-id", value.get("id"))
        self._rows[number] = self._columns.add_image(name, self._size(value, name))
        self._image_ids.append(_identity(value.get("id", index + 1)))

    def _size(self, value: Mapping[str, Any], name: str) -> Size:
        if value.get("height") is None or value.get("width") is None:
            found = images.read_size(self._source.images / name, max_pixels=self._max_pixels)
            if isinstance(found, images.ImageFlaw):
                said = f"has no width and height in its record, and the file has none either: {found.message}"
                raise _Broken("", f"image {_shown(value.get('id'))} {said}; add both to the record")
            return found
        size = _whole(value["height"], ".height"), _whole(value["width"], ".width")
        if size[0] * size[1] > self._max_pixels:
            raise _Broken("", f"got {size[1]}x{size[0]}, must have at most {self._max_pixels} pixels")
        return size

    def _image_number(self, key: Any) -> int:
        if type(key) is str:
            key = _identity(key)
        if (number := self._images.get(key)) is None:
            number = self._images[key] = len(self._images)
            self._rows.append(-1)
        return number

    def _category_number(self, key: Any) -> int:
        if type(key) is str:
            key = _identity(key)
        if (number := self._categories.get(key)) is None:
            number = self._categories[key] = len(self._categories)
            self._labels.append(0)
        return number

    def _add_annotation(self, value: Any, index: int) -> None:
        # Called a million times: what is usual takes no further call.
        x, y, width, height = value["bbox"]
        area = value.get("area")
        outline = value.get("segmentation") if area is None or self._wants_outlines else None
        if area is None:
            area = (outline and run_lengths.area(outline)) or width * height
        crowd, ignored = value.get("iscrowd"), value.get("ignore")
        if (image := self._images.get(value["image_id"])) is None:
            image = self._image_number(value["image_id"])
        if (label := self._categories.get(value["category_id"])) is None:
            label = self._category_number(value["category_id"])
        self._columns.add_annotation(
            (x, y, width, height, area),
            image=image,
            label=label,
            flags=_flags(crowd, ignored) if crowd or ignored else 0,
            outline=outline,
            size=self._size_of(image) if outline else None,
        )
        own = value.get("id")
        self._annotation_ids.append(own if type(own) is int and abs(own) < 2**62 else _NO_ID + index)

    def _size_of(self, image: int) -> Size | None:
        row = self._rows[image]
        return self._columns.sizes[row] if row >= 0 else None

    def _add_category(self, value: Any, index: int) -> None:
        if not isinstance(value, Mapping):
            raise _Broken("", f"got {_shown(value)}, must be an object")
        if "id" not in value:
            raise _Broken(".id", "is absent, must be the category's id")
        name = value.get("name", value["id"])
        name = str(name) if isinstance(name, int | float) else name
        if not isinstance(name, str) or not name.strip() or _is_unwritable(name):
            raise _Broken(".name", f"got {_shown(name)}, must be text")
        parent = value.get("supercategory")
        key = _identity(value["id"])
        self._category_number(key)
        self._category_records.append((key, name, parent if isinstance(parent, str) else None))

    def table(self) -> AnnotationTable:
        columns = self._columns
        if self._backslashes:
            columns.notes.append(
                f"{self._source.file}: {self._backslashes} file names have backslashes, read as slashes"
            )
        classes, ids = self._read_classes()
        unique, counts = np.unique(np.array(self._annotation_ids, np.int64), return_counts=True)
        for number in unique[counts > 1].tolist():
            self._problem(f"annotation {number}: the id is used more than once", "duplicate-id", number)
        places = _CocoPlaces(
            file=str(self._source.file),
            image_ids=self._image_ids,
            annotation_ids=self._annotation_ids,
            images=columns.annotation_images(),
            categories=columns.annotation_labels(),
            image_keys=list(self._images),
            category_keys=list(self._categories),
        )
        content = columns.table(
            places,
            image_rows=self._rows,
            labels=self._labels,
            image_ids=self._image_ids,
            classes=classes,
            category_ids=ids,
        )
        return without(content, self._told(content)) if self._refused or not classes else content

    def _told(self, content: AnnotationTable) -> NDArray[np.bool_]:
        """(M,) annotations of images or categories that a problem has been told of already."""
        of_refused = np.isin(self._columns.annotation_images(), list(self._refused))
        return np.asarray((of_refused & (content.image_rows < 0)) | (not content.classes), np.bool_)

    def _read_classes(self) -> tuple[list[str], list[Any]]:
        """Names and ids of the classes; sets the labels of the category numbers."""
        records = self._category_records
        if not records:
            self._problem("categories: got none, must list at least one", "unknown-category")
        used = {list(self._categories)[number] for number in set(self._columns.annotation_labels())}
        if root := _root(records, used=used):
            self._columns.notes.append(
                f"{self._source.file}: category {root!r} is no class: it has no objects, and is the "
                "supercategory of all others"
            )
        classes: list[str] = []
        ids: list[Any] = []
        for key, name, _ in records:
            if name == root and key not in used:
                continue
            number = self._categories[key]
            if self._labels[number]:
                self._problem(f"category {key}: the id is used more than once", "duplicate-id", key)
            elif name in classes:
                rule, got = "duplicate-name", f"category {key}: got the name {name!r} of another category"
                self._problem(f"{got}, must be the only one of this name", rule, key)
            classes.append(name)
            ids.append(key)
            self._labels[number] = len(classes)
        return classes, ids


@dataclass(frozen=True, kw_only=True, eq=False)
class _CocoPlaces:
    """Finds rows in one COCO file."""

    file: str
    image_ids: Sequence[Any]
    annotation_ids: Sequence[int]
    images: Sequence[int]
    categories: Sequence[int]
    image_keys: Sequence[Any]
    category_keys: Sequence[Any]

    def annotation(self, row: int) -> Place:
        number = self.annotation_ids[row]
        own, name = (number, str(number)) if number > _NO_ID // 2 else (None, f"[{number - _NO_ID}]")
        text = f"annotation {name} of image {_name(self.image_keys[self.images[row]])}"
        return Place(file=self.file, id=own, text=text)

    def image(self, row: int) -> Place:
        number = self.image_ids[row]
        return Place(
            file=self.file, id=number if isinstance(number, int) else None, text=f"image {_name(number)}"
        )

    def reference(self, row: int, field: str) -> str:
        keys, numbers = (
            (self.image_keys, self.images) if field == "image_id" else (self.category_keys, self.categories)
        )
        return _shown(keys[numbers[row]])

    def box(self, row: int, box: Sequence[float]) -> str:
        return f"box {list(box)}"


def _flags(crowd: Any, ignored: Any) -> int:
    if (crowd and crowd != 1) or (ignored and ignored != 1):
        raise ValueError
    return (CROWD if crowd else 0) + (IGNORED if ignored else 0)


def _root(records: Sequence[tuple[Any, str, str | None]], *, used: set[Any]) -> str | None:
    """The name of the category that only groups the others, as Roboflow writes it; None without one."""
    for key, name, _ in records:
        others = [parent for other, _, parent in records if other != key]
        if key not in used and others and all(parent == name for parent in others):
            return name
    return None


def _identity(value: Any) -> Any:
    """An id as what it equals: text of a whole number is that number."""
    if type(value) is str and len(value) < 20 and value.lstrip("-").isdecimal() and str(int(value)) == value:
        return int(value)
    if type(value) is float and math.isfinite(value) and value.is_integer():
        return int(value)
    if type(value) not in (int, str) and not (type(value) is float and math.isfinite(value)):
        raise _Broken(".id", f"got {_shown(value)}, must be a number or text")
    return value


def _text(value: Mapping[str, Any], field: str) -> str:
    if field not in value:
        raise _Broken(f".{field}", "is absent, must be text")
    if not isinstance(value[field], str):
        raise _Broken(f".{field}", f"got {_shown(value[field])}, must be text")
    return str(value[field])


def _whole(value: Any, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _Broken(path, f"got {_shown(value)}, must be a whole number >= 1")
    if value != int(value) or not -1e9 < value < 1e9:
        raise _Broken(path, f"got {_shown(value)}, must be a whole number >= 1")
    return int(value)


def _is_unwritable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _diagnose(section: str, value: Any, error: Exception) -> tuple[str, str]:
    """Path and reason of what is wrong with an annotation that could not be taken."""
    try:
        _examine(value)
    except _Broken as broken:
        return broken.args[0], broken.args[1]
    return "", f"cannot be read ({type(error).__name__})"


def _examine(value: Any) -> None:
    if not isinstance(value, Mapping):
        raise _Broken("", f"got {_shown(value)}, must be an object")
    for name in ("bbox", "image_id", "category_id"):
        if name not in value:
            raise _Broken("", f"field '{name}' is absent")
    box = value["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise _Broken(".bbox", f"got {_shown(box)}, must be four finite numbers: x, y, width, height")
    for name in ("image_id", "category_id"):
        try:
            _identity(value[name])
        except _Broken as broken:
            raise _Broken(f".{name}", broken.args[1]) from None
    if value.get("area") is not None and not _is_number(value["area"]):
        raise _Broken(".area", f"got {_shown(value['area'])}, must be a finite number")
    for name in ("iscrowd", "ignore"):
        if (flag := value.get(name)) is not None and flag not in (0, 1):
            raise _Broken(f".{name}", f"got {_shown(flag)}, must be 0 or 1")
    return


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:
        return False


def _name(key: Any) -> str:
    """An id in a message."""
    return str(key) if isinstance(key, int) and abs(key) < 2**63 else _shown(key)


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, or a deep list
        text = f"a {type(value).__name__} that is too long to show"
    text = text.encode("unicode_escape", "backslashreplace").decode() if not text.isprintable() else text
    return text if len(text) <= 60 else f"{text[:60]}..."
