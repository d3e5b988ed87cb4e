"""Reads YOLO data sets: a ``data.yaml`` that names classes and folders, and a text file an image.

A line is a class and a box (centre and sides) or a polygon, in shares of the image. Exports of Roboflow and
Ultralytics are read as they are. The labels of ``images/a/1.jpg`` lie in ``labels/a/1.txt``; an image without
that file has no objects. Imports no torch.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
import yaml

from kubedet_trainer.data import files, images, run_lengths
from kubedet_trainer.data.columns import MAX_PIXELS, Columns, OutlineUse
from kubedet_trainer.data.images import ImageFlaw
from kubedet_trainer.data.run_lengths import Size
from kubedet_trainer.data.table import AnnotationTable, Place, Problem
from kubedet_trainer.errors import InvalidInput, MissingInput

_DECIMALS = 2
"""Of pixels, as in COCO's files; six decimals of a share are no finer."""
_BOX_FIELDS = 5
_LEAST_POLYGON_FIELDS = 7
_MOST_YAML_BYTES = 2**24


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
        digest = hashlib.sha256(f"{self.file.resolve()} {self.images.resolve()} {self.split}".encode())
        digest.update(files.read_regular(self.file))
        for name in _image_names(self.images, self.file, self.split):
            digest.update(f"\n{name} {_stamp(self.images / _label_name(name))}".encode())
        return digest.hexdigest()

    def read(self, use: OutlineUse, *, max_pixels: int = MAX_PIXELS) -> AnnotationTable:
        """The images of the split, sorted by name, and their labels.

        Raises:
            MissingInput: a folder or list that `file` names is absent.
            InvalidInput: `file` is no such description.
        """
        names = list(_image_names(self.images, self.file, self.split))
        reader = _Reader(self, read_classes(self.file), Columns(use, max_pixels=max_pixels), max_pixels)
        for name in names:
            reader.add(name)
        return reader.table()


def read_yaml(file: Path) -> Mapping[str, Any]:
    """The content of a ``data.yaml``.

    Raises:
        MissingInput: there is none.
        InvalidInput: it is not a mapping in YAML.
    """
    state = files.require_regular(file, kind="data.yaml")
    try:
        if state.st_size > _MOST_YAML_BYTES:
            raise yaml.YAMLError(f"more than {_MOST_YAML_BYTES} bytes")
        content = yaml.safe_load(files.read_regular(file))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InvalidInput(f"{file}: not YAML ({reason})") from error
    if not isinstance(content, Mapping):
        raise InvalidInput(
            f"{file}: got {type(content).__name__}, must be a mapping with names, train and val"
        )
    return content


def read_classes(file: Path) -> list[str]:
    """The names of the classes 0, 1, ...

    Raises:
        InvalidInput: ``names`` is neither a list nor a mapping from 0, 1, ... on.
    """
    content = read_yaml(file)
    names = content.get("names")
    if isinstance(names, Mapping):
        keys = {str(key): name for key, name in names.items()}
        names = [keys.get(str(number)) for number in range(len(keys))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str | int) for name in names):
        raise InvalidInput(
            f"{file}: names: got {content.get('names')!r:.60}, must name the classes 0, 1, 2, ..."
        )
    found = [str(name) for name in names]
    for name in found:
        if found.count(name) > 1:
            raise InvalidInput(f"{file}: names: got '{name}' twice, must be different names")
    return found


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
        for parent, _, leaves in os.walk(folder):
            yield from (Path(parent, leaf) for leaf in leaves)

    def read(self, file: Path) -> bytes:
        return files.read_regular(file)


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
    content = read_yaml(file)
    entries = content.get(split)
    entries = [entries] if isinstance(entries, str) else entries
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, str) for entry in entries):
        raise InvalidInput(
            f"{file}: {split}: got {content.get(split)!r:.60}, must be a folder or a list of images"
        )
    found: dict[str, None] = {}
    for entry in entries:
        place = _resolve(root, file, content.get("path"), entry, field=split, tree=tree)
        is_list = place.suffix == ".txt"
        names = _listed_names(root, place, tree) if is_list else _folder_names(root, place, tree)
        found |= dict.fromkeys(names)
    yield from found


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
        lines = tree.read(file).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file}: not a list of images ({error})") from error
    for number, line in enumerate(lines, start=1):
        if not (name := line.strip()):
            continue
        place = next(
            (
                path
                for path in (Path(os.path.normpath(base / name)) for base in (file.parent, root))
                if path.is_relative_to(root) and tree.exists(path)
            ),
            None,
        )
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
    def __init__(self, source: YoloSplit, classes: Sequence[str], columns: Columns, max_pixels: int) -> None:
        self._root = source.images
        self._classes = classes
        self._columns = columns
        self._max_pixels = max_pixels
        self._lines: list[tuple[int, int]] = []

    def add(self, name: str) -> None:
        size = images.read_size(self._root / name, max_pixels=self._max_pixels)
        if isinstance(size, ImageFlaw):
            self._problem(str(self._root / name), size.rule, size.message)
            return
        row = self._columns.add_image(name, size)
        file = self._root / _label_name(name)
        try:
            text = files.read_regular(file).decode("utf-8-sig")
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

    def _problem(self, file: str, rule: str, message: str) -> None:
        self._columns.problems.append(Problem(file=file, id=None, rule=rule, message=message))

    def _add_line(self, fields: Sequence[str], *, image: int, size: Size) -> None:
        try:
            label, *shares = map(float, fields)
        except ValueError:
            label, shares = math.nan, []
        is_polygon = len(fields) >= _LEAST_POLYGON_FIELDS and len(fields) % 2 == 1
        if not all(map(math.isfinite, (label, *shares))) or not (is_polygon or len(fields) == _BOX_FIELDS):
            raise _RuleBroken(
                f"got '{' '.join(fields)[:60]}', must be a class and x, y, width, height, or a class and the "
                "corners of a polygon"
            )
        if label not in range(len(self._classes)):
            raise _RuleBroken(f"got the class {fields[0]}, must be a whole number < {len(self._classes)}")
        sides = np.array([size[1], size[0]], np.float64)
        points = np.array(shares).reshape(-1, 2)
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
