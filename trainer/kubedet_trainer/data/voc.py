"""PASCAL VOC annotations: an XML file an image, named by lists of images, made one COCO file a split.

A list lies in ``FOLDER/ImageSets/Main``, its annotations in ``FOLDER/Annotations`` and its images in
``FOLDER/JPEGImages``; one split may name several lists. VOC counts pixels from 1 and COCO from 0, so every
corner is moved by one; difficult objects become ``"ignore": 1``. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TextIO
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from kubedet_trainer.data import images
from kubedet_trainer.data.table import BOX_TOLERANCE_PIXELS, Problem
from kubedet_trainer.errors import InvalidInput, MissingInput, TrainerError

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
    "tvmonitor",
)
"""VOC's own, in the order of their labels 1, 2, ... (`zoo.md` 1.6)."""

_ANNOTATIONS, _IMAGES = "Annotations", "JPEGImages"
_CORNERS = ("bndbox.xmin", "bndbox.ymin", "bndbox.xmax", "bndbox.ymax")


class _Object(NamedTuple):
    name: str
    box: tuple[float, float, float, float]
    """x, y, width, height, counted from 0."""
    difficult: bool


class _Image(NamedTuple):
    file_name: str
    """Relative to the data set's root."""
    width: int
    height: int
    objects: list[_Object]


class _Read(NamedTuple):
    """What one XML file holds, as far as it keeps the rules."""

    image: _Image | None
    problems: list[Problem]


class _Listed(NamedTuple):
    """One line of an image set."""

    folder: PurePosixPath
    """Of the year, relative to the root."""
    name: str


def image_sets(text: str, *, field: str) -> list[PurePosixPath]:
    """The lists named in `text`, separated by commas, relative to the data set's root.

    Raises:
        InvalidInput: one does not lie where a list lies; `field` is named.
    """
    files = [PurePosixPath(part.strip()) for part in text.split(",")]
    for file in files:
        if len(file.parents) < 3 or file.is_absolute():
            raise InvalidInput(
                f"{field}: got '{text}', must be image sets as VOC2007/ImageSets/Main/trainval.txt, "
                "separated by commas"
            )
    return files


def folders(files: Sequence[PurePosixPath]) -> list[PurePosixPath]:
    """The folders of annotations and images that belong to these lists."""
    years = dict.fromkeys(file.parents[2] for file in files)
    return [year / name for year in years for name in (_ANNOTATIONS, _IMAGES)]


def fingerprint(root: Path, files: Sequence[PurePosixPath]) -> str:
    """Changes when any of the lists or of their XML files does; reads only names, sizes and times.

    Raises:
        MissingInput: a list or a folder of annotations is absent.
    """
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file} {_stamp(_stat(root / file))}\n".encode())
    for folder in folders(files)[::2]:
        _stat(root / folder)
        with os.scandir(root / folder) as entries:
            stamps = sorted(f"{entry.name} {_stamp(entry.stat())}" for entry in entries)
        digest.update("\n".join((str(folder), *stamps)).encode())
    return digest.hexdigest()[:16]


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except FileNotFoundError as error:
        raise MissingInput(f"{path}: absent, must be there for dataset.format VOC") from error


def _stamp(state: os.stat_result) -> str:
    return f"{state.st_size} {state.st_mtime_ns}"


def convert(
    root: Path, *, train: Sequence[PurePosixPath], val: Sequence[PurePosixPath], target: Path
) -> None:
    """Write ``train.json`` and ``val.json`` into the folder `target`, and what `read_problems` reads.

    The categories are VOC's where all names are among them, else the names found in either split, sorted.
    Images and objects that break a rule are left out.

    Raises:
        MissingInput: a list is absent.
    """
    splits = {"train": _read_split(root, train), "val": _read_split(root, val)}
    found = [read.image for reads in splits.values() for read in reads if read.image]
    names = {thing.name for image in found for thing in image.objects}
    classes = CLASSES if names <= set(CLASSES) else tuple(sorted(names))
    for split, reads in splits.items():
        with (target / f"{split}.json").open("w", encoding="utf-8") as output:
            _write_coco(output, [read.image for read in reads if read.image], classes=classes)
    # A list may be part of both splits.
    problems = dict.fromkeys(
        problem for reads in splits.values() for read in reads for problem in read.problems
    )
    (target / "problems.json").write_text(json.dumps([asdict(problem) for problem in problems]))


def read_problems(folder: Path) -> list[Problem]:
    """What `convert` found wrong."""
    return [Problem(**record) for record in json.loads((folder / "problems.json").read_text())]


def _read_split(root: Path, files: Sequence[PurePosixPath]) -> list[_Read]:
    return [_read_annotation(root, listed) for file in files for listed in _read_list(root, file)]


def _read_list(root: Path, file: PurePosixPath) -> Iterator[_Listed]:
    try:
        lines = (root / file).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise MissingInput(f"{root / file}: no such image set") from error
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if len(fields) > 1:
            raise InvalidInput(
                f"{root / file}: line {number}: got '{line}', must be the name of one image; "
                "lists of a single class are not used"
            )
        if fields:
            yield _Listed(file.parents[2], fields[0])


def _read_annotation(root: Path, listed: _Listed) -> _Read:
    # Text and not `Path`: making the paths would take as long as reading the file.
    file = f"{root}/{listed.folder}/{_ANNOTATIONS}/{listed.name}.xml"
    try:
        with open(file, "rb") as stream:
            element = ElementTree.fromstring(stream.read())
    except FileNotFoundError:
        return _Read(
            None, [_problem(file, "missing-annotation", "absent, must be there: its image is listed")]
        )
    except ElementTree.ParseError as error:
        return _Read(None, [_problem(file, "malformed-record", f"not XML ({error})")])
    file_name = (listed.folder / _IMAGES / f"{listed.name}.jpg").as_posix()
    try:
        width, height = _read_size(element, image=root / file_name)
    except _RuleBroken as broken:
        return _Read(None, [_problem(file, *broken.args)])
    except TrainerError as error:
        return _Read(None, [_problem(file, "image-size", f"size: absent, and {error}")])
    objects, problems = [], []
    for number, item in enumerate(element.findall("object")):
        try:
            objects.append(_read_object(item, width=width, height=height))
        except _RuleBroken as broken:
            rule, message = broken.args
            problems.append(_problem(file, rule, f"object[{number}]: {message}"))
    return _Read(_Image(file_name, width, height, objects), problems)


class _RuleBroken(Exception):
    """Rule and message of a `Problem` whose file is known further up."""


def _read_size(element: Element, *, image: Path) -> tuple[int, int]:
    """Width and height, from the image itself where the annotation has none."""
    if (size := element.find("size")) is not None:
        fields = [
            f"size.{side.tag}" for side in (size.find("width"), size.find("height")) if side is not None
        ]
        sides = [int(_number(size, field)) for field in fields]
        if len(sides) == 2 and min(sides) > 0:
            return sides[0], sides[1]
    pixels = images.read_image(image)
    return pixels.shape[1], pixels.shape[0]


def _read_object(element: Element, *, width: int, height: int) -> _Object:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise _RuleBroken("malformed-record", "name: absent, must be the class")
    if (box := element.find("bndbox")) is None:
        raise _RuleBroken("malformed-record", "bndbox: absent, must be the object's box")
    x1, y1, x2, y2 = (_number(box, corner) for corner in _CORNERS)
    got = f"bndbox: got {x1:g},{y1:g} to {x2:g},{y2:g}"
    if x2 < x1 or y2 < y1:
        raise _RuleBroken("zero-area", f"{got}, must have xmin <= xmax and ymin <= ymax")
    # VOC's first pixel is 1, and the last one as large as the image.
    slack = BOX_TOLERANCE_PIXELS
    if min(x1, y1) < 1 - slack or x2 > width + slack or y2 > height + slack:
        raise _RuleBroken("box-outside", f"{got}, must lie within the image's {width}x{height} pixels")
    difficult = element.find("difficult") is not None and _number(element, "difficult") != 0
    return _Object(sys.intern(name), (x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1), difficult)


def _number(parent: Element, field: str) -> float:
    """The number in the child that the dotted `field` ends with."""
    text = parent.findtext(field.rpartition(".")[2])
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        found = "absent" if text is None else f"got '{text}'"
        raise _RuleBroken("malformed-record", f"{field}: {found}, must be a number")
    return int(value) if value.is_integer() else value


def _problem(file: str, rule: str, message: str) -> Problem:
    return Problem(file=file, id=None, rule=rule, message=message)


def _write_coco(output: TextIO, found: Sequence[_Image], *, classes: Sequence[str]) -> None:
    categories = {name: number for number, name in enumerate(classes, start=1)}
    output.write('{"categories": ')
    json.dump([{"id": number, "name": name} for name, number in categories.items()], output)
    output.write(',\n"images": [')
    for number, image in enumerate(found, start=1):
        record = {"id": number, "file_name": image.file_name, "width": image.width, "height": image.height}
        output.write(f"{',' if number > 1 else ''}\n{json.dumps(record)}")
    output.write('],\n"annotations": [')
    pairs = ((number, thing) for number, image in enumerate(found, start=1) for thing in image.objects)
    for number, (image_number, thing) in enumerate(pairs, start=1):
        annotation = {
            "id": number,
            "image_id": image_number,
            "category_id": categories[thing.name],
            "bbox": thing.box,
            "area": thing.box[2] * thing.box[3],
            "iscrowd": 0,
            "ignore": int(thing.difficult),
        }
        output.write(f"{',' if number > 1 else ''}\n{json.dumps(annotation)}")
    output.write("]}\n")
