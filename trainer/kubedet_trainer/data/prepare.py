"""Makes a data set local before training: downloads it, generates it, or finds it where it is mounted.

The launcher does this once for all ranks of a pod; a rank calls it again only to learn the path. Imports no
torch.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qsl, urlsplit

from kubedet_trainer.contract.nearest import did_you_mean
from kubedet_trainer.data import synthetic, voc, yolo
from kubedet_trainer.data.coco import CocoFile
from kubedet_trainer.data.sources import LocalSplit, Source
from kubedet_trainer.data.synthetic import ShapesDataset
from kubedet_trainer.data.voc import VocLists
from kubedet_trainer.data.yolo import YoloSplit
from kubedet_trainer.errors import InvalidInput, MissingInput
from kubedet_trainer.settings import DatasetSettings
from kubedet_trainer.storage.files import locked, make_folder
from kubedet_trainer.storage.folder import path_of
from kubedet_trainer.storage.store import Store, StoredObject
from kubedet_trainer.storage.uris import open_store, require_plain

_DOWNLOAD_THREADS = 16
"""Enough to hide the answer time of a store; small images are not limited by bandwidth."""
_LOG_SECONDS = 30.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LocalDataset:
    """A data set on this machine."""

    train: LocalSplit
    """The validation split where no training split is read."""
    val: LocalSplit | None
    """None where training shall not be evaluated."""
    test: LocalSplit | None = None
    """None where the final weights shall not be evaluated on further images."""


def prepare_dataset(settings: DatasetSettings, directory: Path) -> LocalDataset:
    """Make the data set local and say where its splits lie; instant once it has been done.

    Args:
        settings: which data set.
        directory: where downloads and generated data go; a mounted data set (``file://``) is used as it is.

    Raises:
        InvalidInput: the URI or the format is not one that is supported.
        MissingInput: the folder, an annotation file or an image folder does not exist.
        CredentialsRefused, StorageUnreachable: from the object store.
    """
    if settings.format not in _SOURCES:
        raise InvalidInput(f"dataset.format: got '{settings.format}', must be one of {', '.join(_SOURCES)}")
    if settings.format != "COCO" and settings.uri.startswith("synthetic:"):
        raise InvalidInput(f"dataset.format: got '{settings.format}', must be COCO for {settings.uri}")
    if settings.format == "VOC":
        _image_sets(settings)  # refused before anything is downloaded
    root = _prepare_root(settings, directory)
    found = {
        split: LocalSplit(
            sources=_SOURCES[settings.format](settings, root, split),
            name=f"dataset.{split}.annotations: {_paths(settings, split)[1]}",
        )
        for split in splits_of(settings)
    }
    return LocalDataset(
        train=found.get("train") or found["val"], val=found.get("val"), test=found.get("test")
    )


def splits_of(settings: DatasetSettings) -> tuple[str, ...]:
    """The names of the splits that are read of a data set."""
    is_read = {
        "train": settings.train,
        "val": settings.validate,
        "test": bool(settings.test_annotations),
    }
    return tuple(split for split in is_read if is_read[split])


def _coco_sources(settings: DatasetSettings, root: Path, split: str) -> tuple[Source, ...]:
    images, annotations = _paths(settings, split)
    return tuple(
        CocoFile(file=root / file, images=root / images) for file in _separate(annotations, root=root)
    )


def _voc_sources(settings: DatasetSettings, root: Path, split: str) -> tuple[Source, ...]:
    lists = _image_sets(settings)
    others = tuple(file for name, files in lists.items() if name != split for file in files)
    return (VocLists(images=root, lists=tuple(lists[split]), other_lists=others),)


def _yolo_sources(settings: DatasetSettings, root: Path, split: str) -> tuple[Source, ...]:
    _, annotations = _paths(settings, split)
    return (YoloSplit(images=root, file=root / annotations, split=split),)


_SOURCES: Mapping[str, Callable[[DatasetSettings, Path, str], tuple[Source, ...]]] = {
    "COCO": _coco_sources,
    "VOC": _voc_sources,
    "YOLO": _yolo_sources,
}
"""By format, the files of a split."""


def _paths(settings: DatasetSettings, split: str) -> tuple[str, str]:
    """Images and annotations of a split, relative to the root."""
    return {
        "train": (settings.train_images, settings.train_annotations),
        "val": (settings.val_images, settings.val_annotations),
        "test": (settings.test_images, settings.test_annotations),
    }[split]


def _separate(text: str, *, root: Path) -> list[str]:
    """Paths separated by commas, unless there is a file whose name has them."""
    return [text] if (root / text).is_file() else _parts(text)


def _parts(text: str) -> list[str]:
    """Without empty ones: as a prefix of an object store, no text stands for all that it holds."""
    return [part.strip() for part in text.split(",") if part.strip()] or [text]


def _image_sets(settings: DatasetSettings) -> dict[str, list[PurePosixPath]]:
    """Of each split."""
    return {
        split: voc.image_sets(_paths(settings, split)[1], field=f"dataset.{split}.annotations")
        for split in splits_of(settings)
    }


def _prepare_root(settings: DatasetSettings, directory: Path) -> Path:
    parts = urlsplit(settings.uri)
    if parts.scheme == "file":
        require_plain(settings.uri)
        root = path_of(settings.uri)
        if ".." in root.parts:  # what lies inside is compared with the root as text
            root = root.resolve()
        if not root.is_dir():
            raise MissingInput(f"dataset.storageUri: {settings.uri} is not a folder, must be one")
        return root
    if parts.scheme not in ("s3", "synthetic"):
        raise InvalidInput(
            f"dataset.storageUri: got '{settings.uri}', must be s3://bucket/prefix, file:///path or "
            "synthetic://shapes"
        )
    # Settings that name other files of the same prefix make another folder: what is there is then complete.
    splits = splits_of(settings) if settings.format == "YOLO" else ()  # elsewhere the paths tell them apart
    text = "\n".join((settings.uri, *_wanted(settings), *splits))
    identity = hashlib.sha256(text.encode()).hexdigest()[:12]
    root = directory / identity
    if parts.scheme == "synthetic":
        make_folder(root, lambda scratch: synthetic.write_shapes(parse_shapes(settings.uri), folder=scratch))
        return root
    done = directory / f"{identity}.complete"
    with locked(root):
        if not done.exists():
            _download(settings, root)
            done.touch()
    return root


def parse_shapes(uri: str) -> ShapesDataset:
    """The data set that ``synthetic://shapes?images=240&val_images=60&size=320x240&seed=0`` asks for.

    Raises:
        InvalidInput: an unknown name, or a value out of its bounds.
    """
    parts = urlsplit(uri)
    if parts.netloc != "shapes" or parts.path.strip("/"):
        raise InvalidInput(f"dataset.storageUri: got '{uri}', must be synthetic://shapes")
    known = [field.name for field in fields(ShapesDataset)]
    values: dict[str, int | tuple[int, int]] = {}
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known:
            raise InvalidInput(
                f"dataset.storageUri: synthetic://shapes has no {name!r}.{did_you_mean(name, known)}"
            )
        values[name] = _parse_size(text) if name == "size" else _parse_number(name, text)
    return ShapesDataset(**values)  # type: ignore[arg-type]  # the names were just checked


def _parse_number(name: str, text: str) -> int:
    least = 0 if name == "seed" else 1
    if not text.isdecimal() or int(text) < least:
        raise InvalidInput(f"dataset.storageUri: {name}: got '{text}', must be a whole number >= {least}")
    return int(text)


def _parse_size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and min(int(width), int(height)) >= 64):
        raise InvalidInput(f"dataset.storageUri: size: got '{text}', must be WIDTHxHEIGHT, both >= 64")
    return int(width), int(height)


def _wanted(settings: DatasetSettings) -> tuple[str, ...]:
    """Keys and prefixes that training needs: a bucket often holds test images too, which are not fetched."""
    if settings.format == "VOC":
        lists = [file for files in _image_sets(settings).values() for file in files]
        parts = (f"{folder}/" for folder in voc.folders(lists))
        return (*dict.fromkeys((*parts, *map(str, lists))),)
    if settings.format == "YOLO":  # these say which other files there are
        return (*dict.fromkeys(_paths(settings, split)[1] for split in splits_of(settings)),)
    paths = [_paths(settings, split) for split in splits_of(settings)]
    folders = (f"{folder.strip('/')}/" for folder, _ in paths)
    files = (part for _, text in paths for part in _parts(text))
    return (*dict.fromkeys((*folders, *files)),)


def _download(settings: DatasetSettings, root: Path) -> None:
    store = open_store(settings.uri, settings.credentials)
    objects: dict[str, StoredObject] = {}
    for prefix in _wanted(settings):
        listed = [item for item in store.list(prefix.removeprefix("./")) if not item.key.endswith("/")]
        if prefix and not prefix.endswith("/"):
            listed = [item for item in listed if item.key == prefix]
        if not listed:
            raise MissingInput(
                f"dataset: {settings.uri}/{prefix} does not exist, must be in the object store"
            )
        objects.update((item.key, item) for item in listed)
    if settings.format == "YOLO":
        objects |= _find_yolo(settings, store, root)
    # What an interrupted download left is whole: `get_file` puts a file in place only once it is complete.
    missing = [item for item in objects.values() if _size(root / item.key) != item.size]
    _logger.info(
        "downloading the data set", extra={"files": len(missing), "bytes": sum(item.size for item in missing)}
    )
    _fetch(store, missing, root)


def _find_yolo(settings: DatasetSettings, store: Store, root: Path) -> dict[str, StoredObject]:
    """What the splits need besides their ``data.yaml``, which is fetched first."""
    tree = _StoredTree(store, root)
    found: dict[str, StoredObject] = {}
    for split in splits_of(settings):
        file = root / _paths(settings, split)[1]
        tree.read(file)
        names = yolo.split_files(YoloSplit(images=root, file=file, split=split), tree)
        found |= {name: tree.objects[name] for name in names}
    return found


class _StoredTree:
    """A `yolo.Tree` of what an object store lists, as if it lay below `root`; files are fetched when read."""

    def __init__(self, store: Store, root: Path) -> None:
        self.objects = {item.key: item for item in store.list() if not item.key.endswith("/")}
        self._store = store
        self._root = root
        self._folders = {str(parent) for key in self.objects for parent in PurePosixPath(key).parents}

    def exists(self, path: Path) -> bool:
        key = path.relative_to(self._root).as_posix()
        return key in self.objects or key in self._folders

    def below(self, folder: Path) -> Iterator[Path]:
        inner = folder.relative_to(self._root).as_posix()
        prefix = "" if inner == "." else f"{inner}/"
        return (self._root / key for key in self.objects if key.startswith(prefix))

    def read(self, file: Path) -> bytes:
        self._store.get_file(file.relative_to(self._root).as_posix(), target=file)
        return file.read_bytes()


def _fetch(store: Store, objects: list[StoredObject], root: Path) -> None:
    pool = ThreadPoolExecutor(_DOWNLOAD_THREADS)
    try:
        pending = [pool.submit(store.get_file, item.key, target=root / item.key) for item in objects]
        logged = time.monotonic()
        for count, future in enumerate(as_completed(pending), start=1):
            future.result()
            if time.monotonic() - logged > _LOG_SECONDS:
                logged = time.monotonic()
                _logger.info("downloading the data set", extra={"done": count, "files": len(objects)})
    finally:
        # After an error or a stop nothing more is begun.
        pool.shutdown(cancel_futures=True)


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return None
