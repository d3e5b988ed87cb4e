"""Reads PASCAL VOC annotations: an XML file an image, named by lists of images.

A list lies in ``FOLDER/ImageSets/Main``, its annotations in ``FOLDER/Annotations`` and its images in
``FOLDER/JPEGImages``; one split may name several lists. VOC counts pixels from 1, so every corner is moved by
one; difficult objects are ignored ones. Imports no torch.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from kubedet_trainer.data import files, images
from kubedet_trainer.data.columns import IGNORED, MAX_PIXELS, Columns, OutlineUse
from kubedet_trainer.data.images import ImageFlaw
from kubedet_trainer.data.run_lengths import Size
from kubedet_trainer.data.table import AnnotationTable, Place, Problem
from kubedet_trainer.errors import InvalidInput, MissingInput
from kubedet_trainer.recipes.published_classes import VOC_CLASSES

CLASSES = VOC_CLASSES
"""VOC's own, in the order of their labels 1, 2, ..."""

_ROOT = "annotation"
_ANNOTATIONS, _IMAGES = "Annotations", "JPEGImages"
_CORNERS = ("bndbox.xmin", "bndbox.ymin", "bndbox.xmax", "bndbox.ymax")
_CLASS_FLAGS = frozenset({"-1", "0", "1"})
"""What follows the name in the lists of a single class."""
_DECLARATION = re.compile(rb"""\A\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["'][^>]*\?>""")


class _Listed(NamedTuple):
    """One line of an image set."""

    folder: PurePosixPath
    """Of the year, relative to the root."""
    name: str


class _Object(NamedTuple):
    name: str
    corners: tuple[float, float, float, float]
    """As in the file, counted from 1."""
    difficult: bool


class _RuleBroken(Exception):
    """Rule and message of a `Problem` whose file is known further up."""


def image_sets(text: str, *, field: str) -> list[PurePosixPath]:
    """The lists named in `text`, separated by commas, relative to the data set's root.

    Raises:
        InvalidInput: one does not lie where a list lies; `field` is named.
    """
    found = [PurePosixPath(part.strip()) for part in text.split(",")]
    for file in found:
        if len(file.parents) < 3 or file.is_absolute() or ".." in file.parts:
            raise InvalidInput(
                f"{field}: got '{text}', must be image sets as VOC2007/ImageSets/Main/trainval.txt, "
                "separated by commas"
            )
    return found


def folders(lists: Sequence[PurePosixPath]) -> list[PurePosixPath]:
    """The folders of annotations and images that belong to these lists."""
    years = dict.fromkeys(file.parents[2] for file in lists)
    return [year / name for year in years for name in (_ANNOTATIONS, _IMAGES)]


@dataclass(frozen=True, kw_only=True)
class VocLists:
    """The lists of one split below a root that the file names are relative to."""

    images: Path
    """The root."""
    lists: tuple[PurePosixPath, ...]
    other_lists: tuple[PurePosixPath, ...] = ()
    """Of the other splits, whose classes count too."""

    def identity(self) -> str:
        """Changes when a list or an XML file does; reads only names, sizes and times.

        Raises:
            MissingInput: a list or a folder of annotations is absent.
        """
        everything = (*self.lists, *self.other_lists)
        text = f"{self.images.resolve()} {self.lists} {self.other_lists}"
        digest = hashlib.sha256(text.encode("utf-8", "surrogateescape"))
        for file in everything:
            digest.update(_stamp(_stat(self.images / file)).encode())
        for folder in folders(everything):
            _stat(self.images / folder)
            with os.scandir(self.images / folder) as entries:
                # Only the names of images count here: a changed image is found when it is decoded.
                is_image = folder.name == _IMAGES
                stamps = sorted(
                    f"{entry.name} {'' if is_image else _stamp(entry.stat())}" for entry in entries
                )
            digest.update("\n".join((str(folder), *stamps)).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def read(self, use: OutlineUse, *, max_pixels: int = MAX_PIXELS) -> AnnotationTable:
        """What the lists name. The classes are VOC's where all names are among them, else the names, sorted.

        Raises:
            MissingInput: a list is absent.
            InvalidInput: a list is not one of images.
        """
        reader = _Reader(self.images, Columns(use, max_pixels=max_pixels), max_pixels)
        for file in self.lists:
            for listed in _read_list(self.images, file):
                reader.add(listed)
        names = set(reader.class_numbers)
        for file in self.other_lists:
            for listed in _read_list(self.images, file):
                names |= _class_names(self.images, listed)
        return reader.table(names)


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except (OSError, ValueError) as error:
        raise MissingInput(f"{path}: absent, must be there for dataset.format VOC") from error


def _stamp(state: os.stat_result) -> str:
    return f"{state.st_size} {state.st_mtime_ns}"


def _read_list(root: Path, file: PurePosixPath) -> Iterator[_Listed]:
    try:
        lines = files.listed_names(files.read_regular(root / file))
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{root / file}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise MissingInput(f"{root / file}: no such image set") from error
    for number, name in lines:
        fields = name.split()
        if len(fields) == 2 and fields[1] in _CLASS_FLAGS and not _is_annotated(root, file.parents[2], name):
            raise InvalidInput(
                f"{root / file}: line {number}: got '{name}', must be the name of one image; "
                "lists of a single class are not used"
            )
        if reason := files.inside(name):
            raise InvalidInput(f"{root / file}: line {number}: got {name!r}, {reason}")
        yield _Listed(file.parents[2], name)


def _is_annotated(root: Path, folder: PurePosixPath, name: str) -> bool:
    return (root / folder / _ANNOTATIONS / f"{name}.xml").is_file()


def _parse(file: str) -> Element:
    """The content of an XML file in any encoding that Python reads.

    Raises:
        _RuleBroken: it is absent or not XML.
    """
    try:
        data = files.read_regular(file)
    except FileNotFoundError:
        raise _RuleBroken("missing-annotation", "absent, must be there: its image is listed") from None
    except OSError as error:
        raise _RuleBroken(
            "missing-annotation", f"cannot be read ({error.strerror}), must be a file"
        ) from None
    try:
        return _require_root(ElementTree.fromstring(data))
    except ElementTree.ParseError as error:
        reason = str(error)
    except (ValueError, LookupError) as error:  # an encoding that expat does not know
        reason = str(error)
    declared = _DECLARATION.match(data)
    if declared is None:
        raise _RuleBroken("malformed-record", f"not XML ({reason})")
    # Expat itself reads UTF-8, UTF-16, and encodings of one byte a character.
    encoding = declared[1].decode()
    try:
        return _require_root(ElementTree.fromstring(data[declared.end() :].decode(encoding)))
    except (LookupError, UnicodeError):
        message = f"encoding: got '{encoding}', must be one that Python knows and that the text is in"
        raise _RuleBroken("malformed-record", f"{message}; save the file as UTF-8") from None
    except (ElementTree.ParseError, ValueError) as error:
        raise _RuleBroken("malformed-record", f"not XML ({error})") from None


def _require_root(element: Element) -> Element:
    """The element, which must be VOC's own: in any other, objects are not found and nobody is told."""
    if element.tag != _ROOT:
        message = f"root element: got '{element.tag[:60]}', must be '{_ROOT}' without a namespace"
        raise _RuleBroken("malformed-record", message)
    return element


def _class_names(root: Path, listed: _Listed) -> set[str]:
    try:
        element = _parse(f"{root}/{listed.folder}/{_ANNOTATIONS}/{listed.name}.xml")
    except _RuleBroken:
        return set()  # reported when that split is read
    return {(item.findtext("name") or "").strip() for item in element.iterfind("object")} - {""}


class _Reader:
    def __init__(self, root: Path, columns: Columns, max_pixels: int) -> None:
        self._root = root
        self._columns = columns
        self._max_pixels = max_pixels
        self.class_numbers: dict[str, int] = {}
        self._places: list[tuple[int, int]] = []
        self._corners: list[tuple[float, float, float, float]] = []
        self._xml: list[str] = []
        self._suffixes: dict[PurePosixPath, dict[str, str]] = {}

    def add(self, listed: _Listed) -> None:
        # Text and not `Path`: making the paths would take as long as reading the file.
        file = f"{self._root}/{listed.folder}/{_ANNOTATIONS}/{listed.name}.xml"
        try:
            element = _parse(file)
            name = self._image_name(listed)
            size = self._size(element, image=self._root / name)
        except _RuleBroken as broken:
            self._problem(file, *broken.args)
            return
        row = self._columns.add_image(name, size)
        self._xml.append(file)
        for number, item in enumerate(element.iterfind("object")):
            try:
                self._add_object(_read_object(item), image=row, number=number, size=size)
            except _RuleBroken as broken:
                rule, message = broken.args
                self._problem(file, rule, f"object[{number}]: {message}")

    def _problem(self, file: str, rule: str, message: str) -> None:
        self._columns.problems.append(Problem(file=file, id=None, rule=rule, message=message))

    def _image_name(self, listed: _Listed) -> str:
        """The image's path from the root: the one of that name with any suffix, first of all ``.jpg``."""
        folder = listed.folder / _IMAGES / PurePosixPath(listed.name).parent
        if folder not in self._suffixes:
            self._suffixes[folder] = _stems(self._root / folder)
        stem = PurePosixPath(listed.name).name
        return (folder / self._suffixes[folder].get(stem, f"{stem}.jpg")).as_posix()

    def _size(self, element: Element, *, image: Path) -> Size:
        """Height and width, from the image itself where the annotation has none."""
        if (size := element.find("size")) is not None:
            sides = [
                int(_number(size, f"size.{side}"))
                for side in ("height", "width")
                if size.find(side) is not None
            ]
            if len(sides) == 2 and min(sides) > 0:
                if sides[0] * sides[1] > self._max_pixels:
                    got = f"size: got {sides[1]}x{sides[0]}"
                    raise _RuleBroken("image-size", f"{got}, must have at most {self._max_pixels} pixels")
                return sides[0], sides[1]
        found = images.read_size(image, max_pixels=self._max_pixels)
        if isinstance(found, ImageFlaw):
            raise _RuleBroken("image-size", f"size: absent, and {image}: {found.message}")
        return found

    def _add_object(self, thing: _Object, *, image: int, number: int, size: Size) -> None:
        x1, y1, x2, y2 = thing.corners
        width, height = x2 - x1 + 1, y2 - y1 + 1
        self._columns.add_annotation(
            (x1 - 1, y1 - 1, width, height, width * height),
            image=image,
            label=self.class_numbers.setdefault(thing.name, len(self.class_numbers)),
            flags=IGNORED if thing.difficult else 0,
            outline=None,
            size=size,
        )
        self._places.append((image, number))
        self._corners.append(thing.corners)

    def table(self, names: set[str]) -> AnnotationTable:
        classes = CLASSES if names <= set(CLASSES) else tuple(sorted(names))
        labels = {name: label for label, name in enumerate(classes, start=1)}
        count = len(self._columns.sizes)
        return self._columns.table(
            _VocPlaces(objects=self._places, corners=self._corners, xml=self._xml),
            image_rows=range(count),
            labels=[labels[name] for name in self.class_numbers],
            image_ids=range(1, count + 1),
            classes=classes,
            category_ids=range(1, len(classes) + 1),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _VocPlaces:
    """Finds rows in XML files."""

    objects: Sequence[tuple[int, int]]
    corners: Sequence[tuple[float, float, float, float]]
    xml: Sequence[str]

    def annotation(self, row: int) -> Place:
        image, number = self.objects[row]
        return Place(file=self.xml[image], id=None, text=f"object[{number}]")

    def image(self, row: int) -> Place:
        return Place(file=self.xml[row], id=None, text="size")

    def reference(self, row: int, field: str) -> str:  # pragma: no cover - every object names its class
        return f"{field} of object[{self.objects[row][1]}]"

    def box(self, row: int, box: Sequence[float]) -> str:
        x1, y1, x2, y2 = self.corners[row]
        return f"bndbox {x1:g},{y1:g} to {x2:g},{y2:g}"


def _stems(folder: Path) -> dict[str, str]:
    """The file of each stem in a folder, JPEG files first."""
    try:
        names = sorted(os.listdir(folder), reverse=True)
    except OSError:
        return {}
    found = {os.path.splitext(name)[0]: name for name in names if _suffix(name) in images.SUFFIXES}
    return found | {os.path.splitext(name)[0]: name for name in names if name.endswith(".jpg")}


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _read_object(element: Element) -> _Object:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise _RuleBroken("malformed-record", "name: absent, must be the class")
    if (box := element.find("bndbox")) is None:
        raise _RuleBroken("malformed-record", "bndbox: absent, must be the object's box")
    x1, y1, x2, y2 = (_number(box, corner) for corner in _CORNERS)
    difficult = element.find("difficult") is not None and _number(element, "difficult") != 0
    return _Object(name, (x1, y1, x2, y2), difficult)


def _number(parent: Element, field: str) -> float:
    """The number in the child that the dotted `field` ends with."""
    text = parent.findtext(field.rpartition(".")[2])
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        found = "absent" if text is None else f"got '{text[:40]}'"
        raise _RuleBroken("malformed-record", f"{field}: {found}, must be a number")
    return value
