"""Annotations as training and evaluation use them: arrays mapped from a cache, by the zoo's rules.

A box is xyxy with inclusive corners (x2 = x + w - 1), a label is the class's position plus 1. Annotations
that are ignored, without area, or less than a pixel wide or high are not learnt; crowds stay, marked.
Evaluation compares with all of them (`Truth`). Imports no torch.

Source of the rules: `docs/zoo.md`, 0.4 and 1.2.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from kubedet_trainer.data import array_cache, files, sources, table
from kubedet_trainer.data.columns import MAX_PIXELS, OutlineUse, is_learnable
from kubedet_trainer.data.sources import LocalSplit
from kubedet_trainer.data.table import AnnotationTable
from kubedet_trainer.errors import InvalidInput, MissingInput

_CACHE_VERSION = 2
_SLOT_MULTIPLE = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """What detections are compared with: all M annotations of N images, in the files' order."""

    image_ids: NDArray[np.int64]
    """(N,)"""
    sizes: NDArray[np.int32]
    """(N, 2) height and width."""
    category_ids: NDArray[np.int64]
    """(C,) of the labels 1, 2, ...: the files' where all of them are whole numbers."""
    rows: NDArray[np.int64]
    """(M,) the image of each annotation."""
    labels: NDArray[np.int64]
    """(M,) 1 and up."""
    boxes: NDArray[np.float64]
    """(M, 4) x, y, width, height."""
    areas: NDArray[np.float64]
    """(M,)"""
    crowd: NDArray[np.bool_]
    """(M,)"""
    ignored: NDArray[np.bool_]
    """(M,) what counts neither way."""
    mask_spans: NDArray[np.int64] | None = None
    """(M, 2) begin and end in `mask_bytes`; None where outlines were not asked for."""
    mask_bytes: NDArray[np.uint8] | None = None
    """Run-length codes at the images' own sizes; empty where a crowd or an ignored object has none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Annotations:
    """N images and their M usable boxes, in the file's order; boxes of one image lie together."""

    folder: Path
    """The cache that the arrays are mapped from."""
    image_ids: NDArray[np.int64]
    """(N,) the files' where all of them are whole numbers, else 1, 2, ..."""
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
    left_out: Mapping[str, int]
    """How many objects are not learnt, by the reason."""
    notes: tuple[str, ...]
    """What a user should know although it breaks no rule."""
    mask_spans: NDArray[np.int64] | None = None
    """(M, 2) begin and end in `mask_bytes`; None where masks were not asked for."""
    mask_bytes: NDArray[np.uint8] | None = None
    """Run-length codes of the masks, at the images' own sizes."""
    truth: Truth | None = None
    """What evaluation compares with; None where it was not asked for."""

    def __len__(self) -> int:
        return len(self.image_ids)

    def __reduce__(self) -> tuple[Any, ...]:
        # A loader worker that is spawned maps the same files instead of receiving copies.
        return _open, (self.folder,)

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
        """Run-length codes (see `run_lengths`) of one image's objects, in the order of `ground_truth`."""
        assert self.mask_spans is not None
        assert self.mask_bytes is not None
        part = slice(self.box_offsets[row], self.box_offsets[row + 1])
        spans = self.mask_spans[part][~self.crowd[part]]
        return [self.mask_bytes[start:end].tobytes() for start, end in spans.tolist()]

    def ground_truth_counts(self) -> NDArray[np.int64]:
        """(N,) number of boxes of each image, without crowds."""
        running = np.concatenate(([0], np.cumsum(~self.crowd)))
        return cast("NDArray[np.int64]", np.diff(running[self.box_offsets]))

    def training_rows(self, *, min_side: int = 32, keep_empty: bool = False) -> NDArray[np.int64]:
        """The images that are trained on.

        Args:
            min_side: images with a shorter side are left out.
            keep_empty: whether images without any annotation are kept, as examples of background.
        """
        kept = self.sizes.min(axis=1, initial=2**30) >= min_side
        return np.flatnonzero(kept if keep_empty else kept & (self.annotation_counts > 0))

    def aspect_groups(self) -> NDArray[np.int64]:
        """(N,) 1 for images wider than high, else 0; a batch has images of one group (`docs/zoo.md`, 1.3)."""
        return (self.sizes[:, 1] > self.sizes[:, 0]).astype(np.int64)

    def ground_truth_slots(self, rows: NDArray[np.int64]) -> int:
        """Slots that hold the ground truth of any of these images: their maximum, rounded up to 8."""
        most = int(self.ground_truth_counts()[rows].max(initial=1))
        return -(-most // _SLOT_MULTIPLE) * _SLOT_MULTIPLE


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a split is read."""

    masks: bool = False
    """Whether the objects' outlines are needed; then each one that is learnt must have one."""
    truth: bool = False
    """Whether evaluation will compare with it."""
    classes: tuple[str, ...] | None = None
    """Names of the labels 1, 2, ...; None for all that the split has."""
    leave_out: bool = False
    """Whether objects of other classes are left out; otherwise they are refused."""
    required: bool = False
    """Whether the split must have each of `classes`."""
    max_pixels: int = MAX_PIXELS
    """The most of an image."""


def load_annotations(split: LocalSplit, *, cache: Path, reading: Reading = Reading()) -> Annotations:
    """Read `split` once per node; afterwards, and in all other processes, map the arrays below `cache`.

    Changed files (size or time of change) are read again.

    Raises:
        MissingInput: a file is absent.
        InvalidInput: a file is not of its format, or breaks a rule; the first violations are named.
    """
    identity = f"{_CACHE_VERSION}:{split.identity()}:{reading!r}"
    folder = cache / f"annotations-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    array_cache.cached_arrays(folder, lambda: _make(_require_sound(read_split(split, reading)), reading))
    return _open(folder)


def annotations_of(content: AnnotationTable, reading: Reading) -> Annotations:
    """What `load_annotations` gives, from a table in memory that breaks no rule."""
    return _annotations(dict(_make(content, reading)), folder=Path())


def read_split(split: LocalSplit, reading: Reading, *, check_outlines: bool = False) -> AnnotationTable:
    """The table of a split with the classes that `reading` asks for; its problems are not refused here."""
    use: OutlineUse = "need" if reading.masks else "check" if check_outlines else "ignore"
    content = split.read(use, max_pixels=reading.max_pixels)
    if reading.classes is None:
        return content
    return sources.select_classes(
        content,
        reading.classes,
        name=split.name,
        leave_out=reading.leave_out,
        required=reading.required,
    )


def _open(folder: Path) -> Annotations:
    """Map what `load_annotations` left in `folder`."""
    return _annotations(array_cache.map_arrays(folder), folder=folder)


def _annotations(arrays: dict[str, NDArray[Any]], *, folder: Path) -> Annotations:
    described = json.loads(arrays.pop("description").tobytes())
    truth = {
        name.removeprefix("truth_"): arrays.pop(name) for name in list(arrays) if name.startswith("truth_")
    }
    if truth:
        shared = {name: arrays.get(name) for name in ("image_ids", "sizes", "mask_bytes")}
        described["truth"] = Truth(**truth, **shared)  # type: ignore[arg-type]  # by name
    return Annotations(
        folder=folder,
        classes=tuple(described["classes"]),
        left_out=described["left_out"],
        notes=tuple(described["notes"]),
        truth=described.get("truth"),
        **arrays,
    )


def require_images(annotations: Annotations, folder: Path) -> None:
    """Make sure, before training starts, that every image file is there.

    Raises:
        MissingInput: the folder or at least one image is absent.
    """
    names = (annotations.file_name(row) for row in range(len(annotations)))
    missing = [(row, name) for row, name in enumerate(absent(folder, names)) if name]
    if missing:
        row, name = missing[0]
        raise MissingInput(
            f"{folder / name}: image {annotations.image_ids[row]} is absent, as are {len(missing) - 1} more, "
            f"must be a file{files.describe_alike(folder / name)}; `kubedet check-data` lists them"
        )


def _require_sound(content: AnnotationTable) -> AnnotationTable:
    if first := list(itertools.islice(table.problems(content), 3)):
        listed = "; ".join(str(problem) for problem in first)
        raise InvalidInput(f"{listed}; `kubedet check-data` lists all violations")
    return content


def _make(content: AnnotationTable, reading: Reading) -> array_cache.Arrays:
    count = len(content.image_ids)
    kept = ~content.ignored & is_learnable(content.boxes, content.areas)
    order = np.flatnonzero(kept)[np.argsort(content.image_rows[kept], kind="stable")]
    rows = content.image_rows[order]
    boxes = content.boxes[order]
    boxes[:, 2:] += boxes[:, :2] - 1
    names = [name.encode() for name in content.file_names]
    description = {"classes": content.classes, "left_out": left_out(content), "notes": content.notes}
    return {
        **(_make_masks(content, order) if content.outlines is not None else {}),
        **(_make_truth(content) if reading.truth else {}),
        "image_ids": content.image_ids,
        "sizes": content.image_sizes.astype(np.int32),
        "annotation_counts": np.bincount(content.image_rows, minlength=count).astype(np.int32),
        "box_offsets": np.concatenate(([0], np.cumsum(np.bincount(rows, minlength=count)))),
        "boxes": boxes.astype(np.float32),
        "labels": content.labels[order].astype(np.int32),
        "crowd": content.crowd[order],
        "name_offsets": np.cumsum([0, *map(len, names)], dtype=np.int64),
        "name_bytes": np.frombuffer(b"".join(names), np.uint8),
        "description": np.frombuffer(json.dumps(description).encode(), np.uint8),
    }


def _make_masks(content: AnnotationTable, order: NDArray[np.int64]) -> array_cache.Arrays:
    assert content.outlines is not None
    # The codes stay in the file's order: to sort them would take them twice.
    return {"mask_spans": content.outlines.spans[order], "mask_bytes": content.outlines.codes}


def _make_truth(content: AnnotationTable) -> array_cache.Arrays:
    outlines = content.outlines
    return {
        **({} if outlines is None else {"truth_mask_spans": outlines.spans}),
        "truth_category_ids": content.category_ids,
        "truth_rows": content.image_rows,
        "truth_labels": content.labels,
        "truth_boxes": content.boxes,
        "truth_areas": content.areas,
        "truth_crowd": content.crowd,
        "truth_ignored": content.ignored,
    }


def left_out(content: AnnotationTable) -> dict[str, int]:
    """How many annotations are not learnt, by the reason; the first one that applies counts."""
    reasons: Sequence[tuple[str, NDArray[np.bool_]]] = (
        ("crowds", content.crowd),
        ("ignored objects", content.ignored),
        ("objects whose area is given as 0 or less", ~(content.areas > 0)),
        ("objects less than a pixel wide or high", ~np.all(content.boxes[:, 2:] >= 1, axis=1)),
    )
    counts = {"objects of other classes": content.num_other_classes}
    rest = np.ones(len(content.labels), np.bool_)
    for reason, applies in reasons:
        counts[reason] = int((rest & applies).sum())
        rest &= ~applies
    return {reason: count for reason, count in counts.items() if count}


def absent(folder: Path, names: Iterator[str]) -> Iterator[str]:
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
