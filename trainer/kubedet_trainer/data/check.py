"""Finds everything that is wrong with a data set, and sums up what is in it. Imports no torch.

The splits are opened by the function that jobs use; where a job stops at the first violation, all are listed.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from kubedet_trainer.config import DataConfig
from kubedet_trainer.data import arrays, files, forked, images, opening, splits, table
from kubedet_trainer.data.arrays import Annotations, Reading
from kubedet_trainer.data.opening import FindProposals
from kubedet_trainer.data.prepare import LocalDataset
from kubedet_trainer.data.sources import LocalSplit, without
from kubedet_trainer.data.splits import SplitRefused
from kubedet_trainer.data.table import AnnotationTable, Problem

_IMAGES_AT_ONCE = 32
_DAMAGE = re.compile("(Corrupt JPEG|TIFF_Error) .*")
"""What libjpeg and libtiff say of a damaged picture, of which OpenCV returns the pixels all the same:
``Corrupt JPEG data: premature end of data segment``."""

Report = Callable[[str], None]
"""Takes one line for the user."""


@dataclass(kw_only=True)
class Findings:
    """What was found in all splits."""

    num_problems: int = 0
    summary: list[str] = field(default_factory=list)
    """Lines about what is in the splits."""


class _Looked(NamedTuple):
    """What a worker process found in one image."""

    flaw: tuple[str, str] | None
    """Rule and message."""
    size: tuple[int, int] | None
    digest: bytes


def check_dataset(
    local: LocalDataset,
    data: DataConfig,
    *,
    report: Report,
    find_proposals: FindProposals,
    max_detections: int = 100,
    decode: bool = True,
) -> Findings:
    """Report every violation, and sum up what is there.

    Args:
        local: where the splits lie.
        data: what the recipe asks for.
        report: receives each violation as it is found.
        find_proposals: has the proposals of a split.
        max_detections: as many of an image count in evaluation.
        decode: whether every image is decoded whole.

    Raises:
        TrainerError: a file is absent or not of its format, so that nothing else can be said.
    """
    checker = _Checker(report, decode=decode, max_pixels=data.max_image_pixels, max_detections=max_detections)
    try:
        dataset = opening.open_splits(local, data, load=checker.load, find_proposals=find_proposals)
    except SplitRefused as error:
        checker.report(str(error))
    else:
        if repeated := splits.describe_repeated(dataset.train):
            checker.findings.summary.append(repeated)
        reasons = dataset.left_out(data)
        checker.findings.summary += [
            f"left out of training: {count} {reason}" for reason, count in reasons.items()
        ]
    checker.tell_shared_pictures()
    return checker.findings


class _Checker:
    def __init__(self, report: Report, *, decode: bool, max_pixels: int, max_detections: int) -> None:
        self._report = report
        self._decode = decode
        self._max_pixels = max_pixels
        self._max_detections = max_detections
        self._splits_of: dict[bytes, set[str]] = defaultdict(set)
        self._told: set[str] = set()
        self._looked: dict[Path, _Looked] = {}
        self.findings = Findings()

    def report(self, line: str) -> None:
        """Report a violation, only once if it is in several splits."""
        if line not in self._told:
            self._told.add(line)
            self.findings.num_problems += 1
            self._report(line)

    def load(self, split: LocalSplit, reading: Reading) -> Annotations:
        """The annotations of a split, all that is wrong with it reported."""
        content = arrays.read_split(split, reading, check_outlines=True)
        for problem in table.problems(content):
            self.report(str(problem))
        for problem in self._image_problems(split, content):
            self.report(str(problem))
        usable = _usable(content)
        self.findings.summary += [*content.notes, *summarise(usable, name=split.name)]
        if crowded := int((np.bincount(usable.image_rows) > self._max_detections).sum()):
            self.findings.summary.append(
                f"  {crowded} images have more objects than the {self._max_detections} detections that "
                "evaluation counts (evaluation_detections)"
            )
        return arrays.annotations_of(usable, reading)

    def _image_problems(self, split: LocalSplit, content: AnnotationTable) -> Iterator[Problem]:
        folder = split.images
        if not self._decode:
            absent = set(arrays.absent(folder, iter(content.file_names)))
            for row, name in enumerate(content.file_names):
                if name in absent:
                    message = f"no such image, must be a file{files.describe_alike(folder / name)}"
                    yield _problem(content, row, folder / name, "missing-image", message)
            return
        paths = [folder / name for name in content.file_names]
        new = [file for file in dict.fromkeys(paths) if file not in self._looked]
        self._looked |= zip(new, _look_at_all(new, max_pixels=self._max_pixels), strict=True)
        for row, file in enumerate(paths):
            looked = self._looked[file]
            self._splits_of[looked.digest].add(split.name)
            height, width = content.image_sizes[row].tolist()
            if looked.flaw is not None:
                yield _problem(content, row, file, *looked.flaw)
            elif looked.size is not None and min(height, width) > 0 and looked.size != (height, width):
                message = images.describe_other_size(looked.size, recorded=(height, width))
                yield _problem(content, row, file, "image-size", message)

    def tell_shared_pictures(self) -> None:
        """Note how many pictures are in more than one split: figures measured on them say little."""
        shared = sum(len(names) > 1 for digest, names in self._splits_of.items() if digest)
        if shared:
            self.findings.summary.append(f"{shared} pictures are in more than one split")


def _problem(content: AnnotationTable, row: int, file: Path, rule: str, message: str) -> Problem:
    place = content.places.image(row)
    return Problem(file=str(file), id=place.id, rule=rule, message=f"{place.text}: {message}")


def _usable(content: AnnotationTable) -> AnnotationTable:
    """The annotations that break no rule of their own, so that the rest can be checked too."""
    bad = (content.image_rows < 0) | (content.labels < 1)
    bad |= ~np.isfinite(content.boxes).all(axis=1) | ~np.isfinite(content.areas)
    return without(content, bad) if bad.any() else content


def summarise(content: AnnotationTable, *, name: str) -> list[str]:
    """What is in a split: images, and boxes and sizes of each class."""
    counts = np.bincount(content.image_rows, minlength=len(content.file_names))
    empty = int((counts == 0).sum())
    lines = [
        f"{name}: {len(content.file_names)} images, {empty} without objects; {len(content.labels)} objects, "
        f"at most {int(counts.max(initial=0))} in an image"
    ]
    sides = np.sqrt(content.boxes[:, 2:].clip(min=0).prod(axis=1))
    for label, class_name in enumerate(content.classes, start=1):
        own = sides[content.labels == label]
        if len(own):
            low, middle, high = np.percentile(own, (0, 50, 100)).tolist()
            size = f", {low:.0f} to {high:.0f} pixels (median {middle:.0f})"
        else:
            size = ""
        lines.append(f"  {class_name}: {len(own)} boxes{size}")
    repeated = len(content.file_names) - len(set(content.file_names))
    return [*lines, *([f"  {repeated} images are listed more than once"] if repeated else [])]


def _look_at_all(paths: list[Path], *, max_pixels: int) -> Iterator[_Looked]:
    """Decode all images in processes of their own."""
    if not paths:
        return
    # libjpeg and libpng say what is damaged on standard error only, so each process needs one of its own.
    workers = min(len(os.sched_getaffinity(0)), -(-len(paths) // _IMAGES_AT_ONCE))
    with ProcessPoolExecutor(workers, mp_context=forked.context(__name__), initializer=_listen) as pool:
        look = partial(_look_at, max_pixels=max_pixels)
        yield from pool.map(look, paths, chunksize=_IMAGES_AT_ONCE)


def _listen() -> None:
    """Take what libraries write to standard error."""
    forked.hear_stops()
    os.dup2(os.memfd_create("warnings"), 2)
    cv2.setNumThreads(0)


def _look_at(file: Path, *, max_pixels: int) -> _Looked:
    os.ftruncate(2, 0)
    os.lseek(2, 0, os.SEEK_SET)
    data = images.read_data(file)
    if isinstance(data, images.ImageFlaw):
        return _Looked((data.rule, data.message), None, b"")
    digest = hashlib.blake2b(data, digest_size=16).digest()
    pixels = images.decode(data, max_pixels=max_pixels)
    if isinstance(pixels, images.ImageFlaw):
        return _Looked((pixels.rule, pixels.message), None, digest)
    if said := _DAMAGE.search(os.pread(2, 1000, 0).decode("utf-8", "replace")):
        return _Looked(("damaged-image", f"the decoder says '{said[0]}', must be whole"), None, digest)
    return _Looked(None, (pixels.shape[0], pixels.shape[1]), digest)
