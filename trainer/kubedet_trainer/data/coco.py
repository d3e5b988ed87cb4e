"""COCO annotations as the trainer uses them: arrays mapped from a cache, by the zoo's rules.

A box is xyxy with inclusive corners (x2 = x + w - 1), a label is the category's position in the file plus 1.
Annotations marked ``ignore``, without area, or less than a pixel wide or high are left out; crowds stay,
marked. Imports no torch.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from kubedet_trainer.data import array_cache, images, table
from kubedet_trainer.data.masks import read_masks
from kubedet_trainer.data.table import AnnotationTable, Problem
from kubedet_trainer.errors import InvalidInput, MissingInput

__all__ = [
    "Annotations",
    "Problem",
    "check_dataset",
    "load_annotations",
    "open_annotations",
    "require_images",
]

_CACHE_VERSION = 1
_MIN_TRAIN_SIDE = 32
_SLOT_MULTIPLE = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Annotations:
    """N images and their M usable boxes, in the file's order; boxes of one image lie together."""

    folder: Path
    """The cache that the arrays are mapped from."""
    image_ids: NDArray[np.int64]
    """(N,)"""
    sizes: NDArray[np.int32]
    """(N, 2) height and width."""
    annotation_counts: NDArray[np.int32]
    """(N,) annotations of any kind in the file, also those left out."""
    box_offsets: NDArray[np.int64]
    """(N + 1,): the boxes of image n are ``boxes[box_offsets[n]:box_offsets[n + 1]]``."""
    boxes: NDArray[np.float32]
    """(M, 4)"""
    labels: NDArray[np.int32]
    """(M,) 1 and up."""
    crowd: NDArray[np.bool_]
    """(M,)"""
    name_offsets: NDArray[np.int64]
    """(N + 1,) into `name_bytes`."""
    name_bytes: NDArray[np.uint8]
    """UTF-8 of all file names, one after the other."""
    classes: tuple[str, ...]
    """Names of the labels 1, 2, ..."""
    category_ids: tuple[int, ...]
    """The file's ids of the labels 1, 2, ..."""
    mask_spans: NDArray[np.int64] | None = None
    """(M, 2) begin and end in `mask_bytes`; None where masks were not asked for."""
    mask_bytes: NDArray[np.uint8] | None = None
    """Run-length codes of the masks, at the images' own sizes; a crowd's is empty."""

    def __len__(self) -> int:
        return len(self.image_ids)

    def __reduce__(self) -> tuple[Any, ...]:
        # A loader worker that is spawned maps the same files instead of receiving copies.
        return open_annotations, (self.folder,)

    def file_name(self, row: int) -> str:
        """Path of the image relative to the split's image folder."""
        start, end = self.name_offsets[row : row + 2]
        return self.name_bytes[start:end].tobytes().decode()

    def ground_truth(self, row: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """(K, 4) boxes and (K,) labels of one image, without crowds."""
        part = slice(self.box_offsets[row], self.box_offsets[row + 1])
        kept = ~self.crowd[part]
        return self.boxes[part][kept], self.labels[part][kept]

    @property
    def has_masks(self) -> bool:
        """Whether masks were asked for when this was loaded."""
        return self.mask_spans is not None

    def masks(self, row: int) -> list[bytes]:
        """Run-length codes (see `segmentation`) of one image's objects, in the order of `ground_truth`."""
        assert self.mask_spans is not None
        assert self.mask_bytes is not None
        part = slice(self.box_offsets[row], self.box_offsets[row + 1])
        spans = self.mask_spans[part][~self.crowd[part]]
        return [self.mask_bytes[start:end].tobytes() for start, end in spans.tolist()]

    def ground_truth_counts(self) -> NDArray[np.int64]:
        """(N,) number of boxes of each image, without crowds."""
        running = np.concatenate(([0], np.cumsum(~self.crowd)))
        return cast("NDArray[np.int64]", np.diff(running[self.box_offsets]))

    def training_rows(self) -> NDArray[np.int64]:
        """The images that are trained on: at least one annotation of any kind, no side below 32 pixels."""
        kept = (self.annotation_counts > 0) & (self.sizes.min(axis=1, initial=2**30) >= _MIN_TRAIN_SIDE)
        return np.flatnonzero(kept)

    def aspect_groups(self) -> NDArray[np.int64]:
        """(N,) 1 for images wider than high, else 0; a batch holds images of one group."""
        return (self.sizes[:, 1] > self.sizes[:, 0]).astype(np.int64)

    def ground_truth_slots(self, rows: NDArray[np.int64]) -> int:
        """Slots that hold the ground truth of any of these images: their maximum, rounded up to 8."""
        most = int(self.ground_truth_counts()[rows].max(initial=1))
        return -(-most // _SLOT_MULTIPLE) * _SLOT_MULTIPLE


def load_annotations(file: Path, *, cache: Path, masks: bool = False) -> Annotations:
    """Parse `file` once per node; afterwards, and in all other processes, map the arrays below `cache`.

    A changed file (size or time of change) is parsed anew.

    Args:
        file: COCO annotation file.
        cache: folder of the arrays.
        masks: whether the objects' masks are needed too; then each one must have a segmentation.

    Raises:
        MissingInput: there is no such file.
        InvalidInput: it is not COCO JSON, or its content breaks a rule; the first violations are named.
    """
    try:
        state = file.stat()
    except FileNotFoundError as error:
        raise MissingInput(f"{file}: no such annotation file") from error
    identity = f"{_CACHE_VERSION}:{file.resolve()}:{state.st_size}:{state.st_mtime_ns}"
    kind = "masks" if masks else "annotations"
    folder = cache / f"{kind}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    array_cache.cached_arrays(folder, lambda: _parse(file, masks=masks))
    return open_annotations(folder)


def open_annotations(folder: Path) -> Annotations:
    """Map what `load_annotations` left in `folder`."""
    arrays = array_cache.map_arrays(folder)
    categories = json.loads(arrays.pop("categories").tobytes())
    return Annotations(
        folder=folder,
        classes=tuple(categories["classes"]),
        category_ids=tuple(categories["category_ids"]),
        **arrays,
    )


def require_images(annotations: Annotations, folder: Path) -> None:
    """Make sure, before training starts, that every image file is there.

    Raises:
        MissingInput: the folder or at least one image is absent.
    """
    names = (annotations.file_name(row) for row in range(len(annotations)))
    missing = [(row, name) for row, name in enumerate(_absent(folder, names)) if name]
    if missing:
        row, name = missing[0]
        raise MissingInput(
            f"{folder / name}: image {annotations.image_ids[row]} is absent, as are {len(missing) - 1} more, "
            "must be a file; `kubedet check-data` lists them"
        )


def check_dataset(annotations: Path, *, images: Path) -> list[Problem]:
    """Every violation in one split of a data set: of the annotation file and of each image, all decoded.

    Args:
        annotations: the split's annotation file.
        images: the folder that its file names are relative to.

    Raises:
        MissingInput: there is no such annotation file.
        InvalidInput: it is not JSON, so that nothing else can be said about it.
    """
    content = table.read_table(annotations)
    found = [*table.problems(content), *read_masks(content)[1]]
    previous_threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            rows = range(len(content.file_names))
            found += (
                flaw for flaw in pool.map(lambda row: _image_problem(content, row, images), rows) if flaw
            )
    finally:
        cv2.setNumThreads(previous_threads)
    return found


def _image_problem(content: AnnotationTable, row: int, folder: Path) -> Problem | None:
    number = int(content.image_ids[row])
    file = folder / content.file_names[row]

    def problem(rule: str, message: str) -> Problem:
        return Problem(file=str(file), id=number, rule=rule, message=f"image {number}: {message}")

    try:
        pixels = images.decode(file.read_bytes())
    except OSError as error:
        return problem("missing-image", f"cannot be read ({error.strerror}), must be a file")
    if isinstance(pixels, images.ImageFlaw):
        return problem(pixels.rule, pixels.message)
    height, width = pixels.shape[:2]
    said_height, said_width = content.image_sizes[row].tolist()
    if (height, width) != (said_height, said_width):
        return problem(
            "image-size", f"is {width}x{height}, must be {said_width}x{said_height} as its record says"
        )
    return None


def _parse(file: Path, *, masks: bool) -> array_cache.Arrays:
    content = table.read_table(file)
    _refuse(table.problems(content))
    rows = table.image_rows(content)
    count = len(content.image_ids)
    kept = ~content.ignored & (content.areas > 0) & (content.boxes[:, 2:] >= 1).all(axis=1)
    order = np.flatnonzero(kept)[np.argsort(rows[kept], kind="stable")]
    boxes = content.boxes[order]
    boxes[:, 2:] += boxes[:, :2] - 1
    names = [name.encode() for name in content.file_names]
    categories = json.dumps({"classes": content.classes, "category_ids": content.category_ids})
    return {
        **(_parse_masks(content, order) if masks else {}),
        "image_ids": content.image_ids,
        "sizes": content.image_sizes.astype(np.int32),
        "annotation_counts": np.bincount(rows, minlength=count).astype(np.int32),
        "box_offsets": np.concatenate(([0], np.cumsum(np.bincount(rows[order], minlength=count)))),
        "boxes": boxes.astype(np.float32),
        "labels": table.labels(content)[order].astype(np.int32),
        "crowd": content.crowd[order],
        "name_offsets": np.cumsum([0, *map(len, names)], dtype=np.int64),
        "name_bytes": np.frombuffer(b"".join(names), np.uint8),
        "categories": np.frombuffer(categories.encode(), np.uint8),
    }


def _parse_masks(content: AnnotationTable, order: NDArray[np.int64]) -> array_cache.Arrays:
    needed = np.zeros(len(content.crowd), np.bool_)
    needed[order] = ~content.crowd[order]
    column, found = read_masks(content, needed=needed)
    _refuse(found)
    # The codes stay in the file's order: to sort them would take them twice.
    spans = np.stack([column.offsets[order], column.offsets[order + 1]], axis=1)
    return {"mask_spans": spans, "mask_bytes": column.codes}


def _refuse(problems: Iterable[Problem]) -> None:
    """Raise InvalidInput that names the first problems, if there are any."""
    if first := list(itertools.islice(problems, 3)):
        listed = "; ".join(str(problem) for problem in first)
        raise InvalidInput(f"{listed}; `kubedet check-data` lists all violations")


def _absent(folder: Path, names: Iterator[str]) -> Iterator[str]:
    """For each name, the name itself where `folder` has no such file, else nothing.

    Folders are listed once: asking for each of COCO's 118,000 files costs minutes on a network volume.
    """
    listed: dict[str, set[str]] = {}
    for name in names:
        parent, _, leaf = name.rpartition("/")
        if parent not in listed:
            try:
                listed[parent] = set(os.listdir(folder / parent))
            except OSError:
                listed[parent] = set()
        yield "" if leaf in listed[parent] else name
