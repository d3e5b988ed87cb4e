"""Regions computed beforehand by a proposal network, for detectors that have none of their own: Fast R-CNN.

A file is an uncompressed npz of four arrays (`ProposalRecord`), written by ``kubedet propose``; the pickles
of 2019 are read too. What training uses of it, in the order of the annotation file, is mapped from a cache,
so that all processes of a node share it. Imports no torch.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from kubedet_trainer import contract
from kubedet_trainer.data import array_cache, proposal_pickle
from kubedet_trainer.data.arrays import Annotations
from kubedet_trainer.data.files import open_regular
from kubedet_trainer.errors import InvalidInput, MissingInput
from kubedet_trainer.settings import DatasetSettings
from kubedet_trainer.storage.files import locked
from kubedet_trainer.storage.folder import path_of
from kubedet_trainer.storage.store import Store
from kubedet_trainer.storage.uris import open_store, require_plain

SPLITS = ("train", "val")
"""Base names of the two files."""

_SUFFIXES = (".npz", ".pkl")
_CACHE_VERSION = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class ProposalRecord:
    """What a file holds: M proposals of N images."""

    image_ids: NDArray[np.int64]
    """(N,) the data set's own."""
    offsets: NDArray[np.int64]
    """(N + 1,): image n has the rows ``offsets[n]`` to ``offsets[n + 1]``, best first."""
    boxes: NDArray[np.float32]
    """(M, 4) xyxy with inclusive corners, in pixels of the original image."""
    scores: NDArray[np.float32]
    """(M,)"""


@dataclass(frozen=True, kw_only=True, eq=False)
class ProposalTable:
    """The best proposals of the images of an annotation file, in its order."""

    folder: Path
    """The cache that the arrays are mapped from."""
    slots: int
    """The most that any image has; a batch has as many places for each."""
    offsets: NDArray[np.int64]
    """(N + 1,)"""
    boxes: NDArray[np.float32]
    """(M, 4) xyxy with inclusive corners, in pixels of the original image."""
    scores: NDArray[np.float32]
    """(M,)"""

    def __reduce__(self) -> tuple[Any, ...]:
        # A loader worker that is spawned maps the same files instead of receiving copies.
        return _open_table, (self.folder, self.slots)

    def of_image(self, row: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(K, 4) boxes and (K,) scores of the image in this row of the annotations."""
        part = slice(self.offsets[row], self.offsets[row + 1])
        return np.array(self.boxes[part]), np.array(self.scores[part])

    def counts(self) -> NDArray[np.int64]:
        """(N,) proposals of each image."""
        return np.diff(self.offsets)


def prepare_proposals(settings: DatasetSettings, directory: Path, *, split: str) -> Path:
    """Make the proposals of ``train`` or ``val`` local and say where they lie; instant once it has been done.

    Args:
        settings: whose `proposals_uri` is the folder or prefix that holds them.
        directory: where they are downloaded to; a mounted folder (``file://``) is used as it is.
        split: one of `SPLITS`.

    Raises:
        InvalidInput: none are given, though the recipe needs them.
        MissingInput: there is no such file.
        CredentialsRefused, StorageUnreachable: from the object store.
    """
    if (uri := settings.proposals_uri) is None:
        raise InvalidInput(
            "dataset.proposals: absent, must be set for a recipe with data.num_proposals: storageUri for "
            "files of `kubedet propose`, or fromJob"
        )
    parts = urlsplit(uri)
    if parts.scheme == "file":
        require_plain(uri)
        found = [path_of(uri) / (split + suffix) for suffix in _SUFFIXES]
        return next((file for file in found if file.is_file()), None) or _refuse_absent(uri, split)
    root = directory / f"proposals-{hashlib.sha256(uri.encode()).hexdigest()[:12]}"
    with locked(root):
        for suffix in _SUFFIXES:
            if (file := root / f"{split}{suffix}").is_file():
                return file
        store = open_store(uri, settings.proposals_credentials or settings.credentials)
        for suffix in _SUFFIXES:
            if store.exists(split + suffix):
                store.get_file(split + suffix, target=root / f"{split}{suffix}")
                return root / f"{split}{suffix}"
    return _refuse_absent(uri, split)


def open_proposals(
    settings: DatasetSettings, *, split: str, annotations: Annotations, slots: int | None, directory: Path
) -> ProposalTable | None:
    """What a run uses of the proposals of a split: the best `slots` of every image of `annotations`.

    Args:
        settings: say where the proposals lie.
        split: one of `SPLITS`.
        annotations: of that split.
        slots: `config.DataConfig.num_proposals`; None gives None.
        directory: the work directory, below which downloads and caches go.

    Raises:
        InvalidInput, MissingInput: the proposals are not given, not there, malformed, or of other images.
        CredentialsRefused, StorageUnreachable: from the object store.
    """
    if slots is None:
        return None
    if split not in SPLITS:
        raise InvalidInput(f"dataset.{split}: set, must be absent for a recipe with data.num_proposals")
    file = prepare_proposals(settings, directory / contract.DATASET_DIRECTORY, split=split)
    cache = directory / contract.CACHE_DIRECTORY
    return load_proposals(file, annotations=annotations, slots=slots, cache=cache)


def load_proposals(file: Path, *, annotations: Annotations, slots: int, cache: Path) -> ProposalTable:
    """The best `slots` proposals of every image of `annotations`.

    They are read once per node and then mapped from `cache`; a changed file (size or time of change) is read
    anew.

    Raises:
        InvalidInput: the file is malformed, or is not of these images.
    """
    state = file.stat()
    identity = (
        _CACHE_VERSION,
        file.resolve(),
        state.st_size,
        state.st_mtime_ns,
        annotations.folder.name,
        slots,
    )
    folder = cache / f"proposals-{hashlib.sha256(repr(identity).encode()).hexdigest()[:16]}"
    array_cache.cached_arrays(folder, lambda: _select(_read(file, annotations), annotations, slots, file))
    return _open_table(folder, slots)


def write_proposals(file: IO[bytes], record: ProposalRecord) -> None:
    """Write `record` as an npz that `load_proposals` reads."""
    np.savez(file, **asdict(record))


def put_proposals(store: Store, record: ProposalRecord, *, split: str, directory: Path) -> str:
    """Store the proposals of a split, by way of a file in `directory`, and return their URI."""
    source = directory / f"{split}.npz"
    with source.open("wb") as file:
        write_proposals(file, record)
    with source.open("rb") as content, store.writing(source.name) as target:
        shutil.copyfileobj(content, target)
    source.unlink()
    return f"{store.uri}/{source.name}"


def _refuse_absent(uri: str, split: str) -> Path:
    raise MissingInput(
        f"dataset.proposals.storageUri: {uri} has neither {split}.npz nor {split}.pkl, must have "
        "one of them; `kubedet propose` writes both splits"
    )


def _open_table(folder: Path, slots: int) -> ProposalTable:
    return ProposalTable(folder=folder, slots=slots, **array_cache.map_arrays(folder))


def _read(file: Path, annotations: Annotations) -> ProposalRecord:
    record = _read_npz(file) if file.suffix == ".npz" else _read_pickle(file, annotations)
    rises = len(record.offsets) == len(record.image_ids) + 1 and record.offsets[0] == 0
    if not (rises and (np.diff(record.offsets) >= 0).all() and record.offsets[-1] == len(record.boxes)):
        raise InvalidInput(
            f"{file}: offsets: must rise from 0 to the number of boxes, one more than image_ids"
        )
    if record.boxes.shape != (len(record.scores), 4) or not np.isfinite(record.boxes).all():
        raise InvalidInput(
            f"{file}: boxes: must be four finite corners for each of the {len(record.scores)} scores"
        )
    # A corner is a pixel: a box of one pixel has equal ones. A file may take gigabytes, so column by column.
    x1, y1, x2, y2 = record.boxes.T
    has_extent = (x2 > x1 - 1) & (y2 > y1 - 1)
    for name, is_right, rule in (
        ("boxes", has_extent, "x1, y1, x2, y2 with x2 >= x1 and y2 >= y1"),
        ("scores", np.isfinite(record.scores), "a finite number"),
    ):
        if not is_right.all():
            row = int(np.flatnonzero(~is_right)[0])
            got = getattr(record, name)[row].tolist()
            raise InvalidInput(f"{file}: {name}[{row}]: got {got}, must be {rule}")
    return record


def _read_npz(file: Path) -> ProposalRecord:
    wanted: dict[str, tuple[type[np.generic], int]] = {
        "image_ids": (np.int64, 1),
        "offsets": (np.int64, 1),
        "boxes": (np.float32, 2),
        "scores": (np.float32, 1),
    }
    arrays = {}
    try:
        with open_regular(file) as stream, np.load(stream, allow_pickle=False) as content:
            _require_uncompressed(content.zip, size=os.fstat(stream.fileno()).st_size)
            for name, (dtype, dimensions) in wanted.items():
                arrays[name] = content[name].astype(dtype, casting="same_kind", copy=False)
                if arrays[name].ndim != dimensions:
                    raise ValueError(f"{name} has {arrays[name].ndim} dimensions, must have {dimensions}")
    except Exception as error:  # a damaged file may raise anything
        raise InvalidInput(
            f"{file}: is not a file of proposals ({error}); `kubedet propose` writes one"
        ) from error
    return ProposalRecord(**arrays)


def _require_uncompressed(archive: zipfile.ZipFile, *, size: int) -> None:
    """Refuse an archive whose content is larger than itself."""
    if sum(member.file_size for member in archive.infolist()) > size:
        raise ValueError("it is compressed")


def _read_pickle(file: Path, annotations: Annotations) -> ProposalRecord:
    """The 2019 form: an array (n, 5) or (n, 4) for each image of the annotation file, in its order."""
    arrays = proposal_pickle.read_float_arrays(file)
    if len(arrays) != len(annotations):
        raise InvalidInput(
            f"{file}: got {len(arrays)} arrays, must be {len(annotations)}: one for each image of the "
            "annotation file, in its order"
        )
    for index, array in enumerate(arrays):
        if array.ndim != 2 or array.shape[1] not in (4, 5):
            raise InvalidInput(f"{file}: [{index}]: got shape {array.shape}, must be (n, 5) or (n, 4)")
    without_score = np.ones(1, np.float32)
    return ProposalRecord(
        image_ids=np.asarray(annotations.image_ids),
        offsets=np.cumsum([0, *map(len, arrays)], dtype=np.int64),
        boxes=np.concatenate(
            [np.empty((0, 4), np.float32), *(array[:, :4] for array in arrays)], dtype=np.float32
        ),
        scores=np.concatenate(
            [
                np.empty(0, np.float32),
                *(
                    array[:, 4] if array.shape[1] == 5 else without_score.repeat(len(array))
                    for array in arrays
                ),
            ],
            dtype=np.float32,
        ),
    )


def _select(record: ProposalRecord, annotations: Annotations, slots: int, file: Path) -> array_cache.Arrays:
    """The first `slots` rows of each image, in the annotations' order."""
    places = {number: place for place, number in enumerate(record.image_ids.tolist())}
    absent = [number for number in annotations.image_ids.tolist() if number not in places]
    if absent:
        raise InvalidInput(
            f"{file}: has no entry for image {absent[0]} and {len(absent) - 1} more, must have one for every "
            "image of the annotation file, even without proposals"
        )
    sources = np.array([places[number] for number in annotations.image_ids.tolist()], np.int64)
    counts = np.diff(record.offsets)[sources].clip(max=slots)
    offsets = np.concatenate(([0], np.cumsum(counts)))
    boxes = np.empty((offsets[-1], 4), np.float32)
    scores = np.empty(offsets[-1], np.float32)
    starts = record.offsets[sources]
    # Slices rather than one index for all: an index takes twice the memory of what it selects.
    for start, count, target in zip(starts.tolist(), counts.tolist(), offsets.tolist(), strict=False):
        boxes[target : target + count] = record.boxes[start : start + count]
        scores[target : target + count] = record.scores[start : start + count]
    return {"offsets": offsets, "boxes": boxes, "scores": scores}
