"""Reads YOLO data sets: a ``data.yaml`` that names classes and folders, and a text file an image.

A line is a class and a box (centre and sides) or a polygon, in shares of the image. With ``kpt_shape`` in
``data.yaml`` it is a class, a box and keypoints, of which the box is taken. Exports of Roboflow and
Ultralytics are read as they are. The labels of ``images/a/1.jpg`` lie in ``labels/a/1.txt``; an image without
that file has no objects. Imports no torch.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from kubedet_trainer.data import files, images, run_lengths
from kubedet_trainer.data import yolo_description as description
from kubedet_trainer.data.columns import MAX_PIXELS, Columns, OutlineUse
from kubedet_trainer.data.images import ImageFlaw
from kubedet_trainer.data.run_lengths import Size
from kubedet_trainer.data.table import AnnotationTable, Place, Problem
from kubedet_trainer.data.yolo_description import BOX_FIELDS
from kubedet_trainer.errors import InvalidInput, MissingInput

_DECIMALS = 2
"""Of pixels, as in COCO's files; six decimals of a share are no finer."""
_LEAST_POLYGON_FIELDS = 7


@dataclass(frozen=True, kw_only=True)
class YoloSplit:
    """One split of a ``data.yaml``."""

    images: Path
    """The data set's root: nothing outside of it is read."""
    file: Path
    """``data.yaml``"""
    split: str
    """``train``, ``val`` or ``test``."""

    def identity(self) -> str:
        """Changes when the list of images or a label file does; reads only names, sizes and times."""
        text = f"{self.file.resolve()} {self.images.resolve()} {self.split}"
        digest = hashlib.sha256(text.encode("utf-8", "surrogateescape"))
        digest.update(files.read_regular(self.file))
        for name in _image_names(self.images, self.file, self.split):
            text = f"\n{name} {_stamp(self.images / _label_name(name))}"
            digest.update(text.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def read(self, use: OutlineUse, *, max_pixels: int = MAX_PIXELS) -> AnnotationTable:
        """The images of the split, sorted by name, and their labels.

        Raises:
            MissingInput: a folder or list that `file` names is absent.
            InvalidInput: `file` is no such description.
        """
        names = list(_image_names(self.images, self.file, self.split))
        reader = _Reader(self, Columns(use, max_pixels=max_pixels), max_pixels)
        for name in names:
            reader.add(name)
        if unread := _unread_names(self.images, self.file, self.split):
            reader.note(
                f"{self.file}: {self.split}: left out {len(unread)} files with labels, such as "
                f"{unread[0]!r}: must be images, and end with one of {', '.join(sorted(images.SUFFIXES))}"
            )
        return reader.table()


class Tree(Protocol):
    """The files of a data set, on this machine or in an object store."""

    def exists(self, path: Path) -> bool:
        """Whether there is a file or a folder."""
        ...

    def below(self, folder: Path) -> Iterator[Path]:
        """Every file in `folder` and the folders in it."""
        ...

    def read(self, file: Path) -> bytes:
        """The bytes of a file; raises as `files.read_regular` does."""
        ...


class _Disk:
    """What lies on this machine."""

    def exists(self, path: Path) -> bool:
        return os.path.exists(path)

    def below(self, folder: Path) -> Iterator[Path]:
        for parent, folders, leaves in os.walk(folder, followlinks=True):
            yield from (Path(parent, leaf) for leaf in leaves)
            folders[:] = [name for name in folders if not _leads_back(parent, name)]

    def read(self, file: Path) -> bytes:
        return files.read_regular(file)


def _leads_back(parent: str, name: str) -> bool:
    """Whether a link leads to a folder that it lies in, so that walking it would never end."""
    path = os.path.join(parent, name)
    return os.path.islink(path) and Path(os.path.realpath(parent)).is_relative_to(os.path.realpath(path))


_DISK = _Disk()


def split_files(source: YoloSplit, tree: Tree) -> Iterator[str]:
    """The paths from the root of all files that a split needs besides ``data.yaml``, if they are in `tree`.

    Raises:
        MissingInput: a folder or list that ``data.yaml`` names is absent.
        InvalidInput: it is no such description.
    """
    for name in _image_names(source.images, source.file, source.split, tree):
        yield name
        if tree.exists(source.images / (label := _label_name(name))):
            yield label


def _image_names(root: Path, file: Path, split: str, tree: Tree = _DISK) -> Iterator[str]:
    """The paths of the split's images from `root`, sorted within each entry."""
    found: dict[str, None] = {}
    for place in _places(root, file, split, tree):
        is_list = place.suffix == ".txt"
        names = _listed_names(root, place, tree) if is_list else _folder_names(root, place, tree)
        found |= dict.fromkeys(names)
    yield from found


def _unread_names(root: Path, file: Path, split: str) -> list[str]:
    """What lies among the images and has labels, but no suffix of an image: it is left out."""
    folders = (place for place in _places(root, file, split, _DISK) if place.suffix != ".txt")
    found = (path for folder in folders for path in _DISK.below(folder))
    others = (path for path in found if path.suffix.lower() not in (*images.SUFFIXES, ".txt"))
    names = (path.relative_to(root).as_posix() for path in others)
    return sorted(name for name in names if os.path.exists(root / _label_name(name)))


def _places(root: Path, file: Path, split: str, tree: Tree) -> Iterator[Path]:
    """The folders and lists of a split."""
    content = description.read_yaml(file)
    entries = description.read_entries(content, file=file, split=split)
    for entry in entries:
        yield _resolve(root, file, content.get("path"), entry, field=split, tree=tree)


def _resolve(root: Path, file: Path, base: Any, entry: str, *, field: str, tree: Tree) -> Path:
    """What an entry names, below `root`.

    It is relative to ``path``, which is relative to the file. Where ``path`` is absent or of another machine,
    it is relative to the file itself; Roboflow's ``../train/images`` means ``train/images`` next to the file.
    """
    stripped = PurePosixPath(entry.replace("\\", "/"))
    while stripped.parts[:1] == ("..",):
        stripped = PurePosixPath(*stripped.parts[1:])
    bases = [file.parent / base, file.parent] if isinstance(base, str) and base else [file.parent]
    for candidate in (place / name for place in bases for name in (entry, str(stripped))):
        inside = Path(os.path.normpath(candidate))
        if inside.is_relative_to(root) and tree.exists(inside):
            return inside
    raise MissingInput(f"{file}: {field}: got '{entry}', must be a folder or a list of images below {root}")


def _folder_names(root: Path, folder: Path, tree: Tree) -> list[str]:
    found = tree.below(folder)
    return sorted(
        file.relative_to(root).as_posix() for file in found if file.suffix.lower() in images.SUFFIXES
    )


def _listed_names(root: Path, file: Path, tree: Tree) -> Iterator[str]:
    try:
        lines = files.listed_names(tree.read(file))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file}: not a list of images ({error})") from error
    for number, name in lines:
        written = (name, name.replace("\\", "/"))
        places = (Path(os.path.normpath(base / text)) for text in written for base in (file.parent, root))
        place = next((path for path in places if path.is_relative_to(root) and tree.exists(path)), None)
        if place is None or files.inside(str(place.relative_to(root))):
            raise InvalidInput(f"{file}: line {number}: got {name[:80]!r}, must be an image below {root}")
        yield place.relative_to(root).as_posix()


def _label_name(image: str) -> str:
    """Ultralytics' rule: the last folder ``images`` of the path becomes ``labels``."""
    parts = list(PurePosixPath(image).with_suffix(".txt").parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return "/".join(parts)


def _stamp(file: Path) -> str:
    try:
        state = file.stat()
    except OSError:
        return "absent"
    return f"{state.st_size} {state.st_mtime_ns}"


class _RuleBroken(Exception):
    """What was found and what must hold."""


class _Reader:
    def __init__(self, source: YoloSplit, columns: Columns, max_pixels: int) -> None:
        self._root = source.images
        self._classes = description.read_classes(source.file)
        self._pose_fields = description.read_pose_fields(source.file)
        self._columns = columns
        self._max_pixels = max_pixels
        self._lines: list[tuple[int, int]] = []

    def add(self, name: str) -> None:
        if reason := files.inside(name):
            self._problem(str(self._root / name), "malformed-name", f"{reason}; rename the file")
            return
        size = images.read_size(self._root / name, max_pixels=self._max_pixels)
        if isinstance(size, ImageFlaw):
            self._problem(str(self._root / name), size.rule, size.message)
            return
        row = self._columns.add_image(name, size)
        file = self._root / _label_name(name)
        try:
            text = files.decode_text(files.read_regular(file))
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError) as error:
            self._problem(str(file), "malformed-record", f"not a text file ({error})")
            return
        for number, line in enumerate(text.splitlines(), start=1):
            if not (fields := line.split()):
                continue
            try:
                self._add_line(fields, image=row, size=size)
                self._lines.append((row, number))
            except _RuleBroken as broken:
                self._problem(str(file), "malformed-record", f"line {number}: {broken}")

    def note(self, text: str) -> None:
        """Tell the user something that breaks no rule."""
        self._columns.notes.append(text)

    def _problem(self, file: str, rule: str, message: str) -> None:
        self._columns.problems.append(Problem(file=file, id=None, rule=rule, message=message))

    def _add_line(self, fields: Sequence[str], *, image: int, size: Size) -> None:
        try:
            label, *shares = map(float, fields)
        except ValueError:
            label, shares = math.nan, []
        is_polygon = (
            self._pose_fields is None and len(fields) >= _LEAST_POLYGON_FIELDS and len(fields) % 2 == 1
        )
        is_known = is_polygon or len(fields) in (BOX_FIELDS, self._pose_fields)
        if not is_known or not all(map(math.isfinite, (label, *shares))):
            raise _RuleBroken(f"got '{' '.join(fields)[:60]}', must be {self._form()}")
        if label not in range(len(self._classes)):
            raise _RuleBroken(f"got the class {fields[0]}, must be a whole number < {len(self._classes)}")
        sides = np.array([size[1], size[0]], np.float64)
        points = np.array(shares if is_polygon else shares[: BOX_FIELDS - 1]).reshape(-1, 2)
        if is_polygon:
            corners = np.round(points * sides, _DECIMALS)
            low, outline = corners.min(axis=0), [corners.ravel().tolist()]
            extent = corners.max(axis=0) - low
        else:
            low, outline = np.round((points[0] - points[1] / 2) * sides, _DECIMALS), None
            extent = np.round(points[1] * sides, _DECIMALS)
        low, extent = np.round(low, _DECIMALS) + 0.0, np.round(extent, _DECIMALS)
        area = run_lengths.area(outline) if outline else 0.0
        self._columns.add_annotation(
            (*low.tolist(), *extent.tolist(), area or float(extent.prod())),
            image=image,
            label=int(label),
            flags=0,
            outline=outline,
            size=size,
        )

    def _form(self) -> str:
        """What a line must be."""
        box = "a class and x, y, width, height"
        if self._pose_fields is not None:
            return f"{box}, and the keypoints of kpt_shape: {self._pose_fields} numbers"
        return f"{box}, or a class and the corners of a polygon; for keypoints, data.yaml must have kpt_shape"

    def table(self) -> AnnotationTable:
        count, columns = len(self._columns.sizes), self._columns
        return columns.table(
            _YoloPlaces(root=self._root, names=columns.file_names, lines=self._lines),
            image_rows=range(count),
            labels=range(1, len(self._classes) + 1),
            image_ids=range(1, count + 1),
            classes=self._classes,
            category_ids=range(1, len(self._classes) + 1),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _YoloPlaces:
    """Finds rows in label files."""

    root: Path
    names: Sequence[str]
    lines: Sequence[tuple[int, int]]

    def annotation(self, row: int) -> Place:
        image, number = self.lines[row]
        return Place(file=str(self.root / _label_name(self.names[image])), id=None, text=f"line {number}")

    def image(self, row: int) -> Place:
        return Place(file=str(self.root / self.names[row]), id=None, text="image")

    def reference(self, row: int, field: str) -> str:  # pragma: no cover - lines are checked as they are read
        return f"{field} of line {self.lines[row][1]}"

    def box(self, row: int, box: Sequence[float]) -> str:
        return f"box {list(box)} in pixels"
