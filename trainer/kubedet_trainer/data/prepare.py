"""Makes a data set local before training: downloads it, generates it, or finds it where it is mounted.

What is not COCO is converted to it here, so that nothing else knows of other formats.
The launcher does this once for all ranks of a pod; a rank calls it again only to learn the path. Imports no
torch.
"""

from __future__ import annotations

import hashlib
import logging
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qsl, urlsplit

from kubedet_trainer.contract.nearest import did_you_mean
from kubedet_trainer.data import synthetic, voc
from kubedet_trainer.data.synthetic import ShapesDataset
from kubedet_trainer.data.table import Problem
from kubedet_trainer.errors import InvalidInput, MissingInput
from kubedet_trainer.settings import DatasetSettings
from kubedet_trainer.storage.files import locked, make_folder
from kubedet_trainer.storage.store import Store, StoredObject
from kubedet_trainer.storage.uris import open_store

_DOWNLOAD_THREADS = 16
"""Enough to hide the answer time of a store; small images are not limited by bandwidth."""
_LOG_SECONDS = 30.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LocalSplit:
    """Where one split lies on this machine."""

    images: Path
    """Folder that the file names of `annotations` are relative to."""
    annotations: Path
    """COCO file, which may have been converted from another format."""


@dataclass(frozen=True, kw_only=True)
class LocalDataset:
    """A data set on this machine."""

    train: LocalSplit
    val: LocalSplit
    problems: tuple[Problem, ...] = ()
    """What is wrong with the files that were converted; a COCO file tells when it is read."""


def prepare_dataset(settings: DatasetSettings, directory: Path) -> LocalDataset:
    """Make the data set local and say where its splits lie; instant once it has been done.

    Args:
        settings: which data set.
        directory: where downloads and generated data go; a mounted data set (``file://``) is used as it is.

    Raises:
        InvalidInput: the URI or the format is not one that is supported, or VOC's files break a rule.
        MissingInput: the folder, an annotation file or an image folder does not exist.
        CredentialsRefused, StorageUnreachable: from the object store.
    """
    local = examine_dataset(settings, directory)
    if local.problems:
        first = "; ".join(str(problem) for problem in local.problems[:3])
        raise InvalidInput(f"{first}; `kubedet check-data` lists all violations")
    return local


def examine_dataset(settings: DatasetSettings, directory: Path) -> LocalDataset:
    """As `prepare_dataset`, but with the broken rules of VOC's files in `problems`, their images left out."""
    if settings.format == "VOC":
        return _prepare_voc(settings, directory)
    if settings.format != "COCO":
        raise InvalidInput(f"dataset.format: got '{settings.format}', must be COCO or VOC")
    root = _prepare_root(settings, directory)
    return LocalDataset(
        train=LocalSplit(images=root / settings.train_images, annotations=root / settings.train_annotations),
        val=LocalSplit(images=root / settings.val_images, annotations=root / settings.val_annotations),
    )


def _prepare_voc(settings: DatasetSettings, directory: Path) -> LocalDataset:
    train, val = _image_sets(settings)
    if settings.uri.startswith("synthetic:"):
        raise InvalidInput(f"dataset.format: got 'VOC', must be COCO for {settings.uri}")
    root = _prepare_root(settings, directory)
    # The data set itself may be mounted read-only; and where its files are edited, they are converted anew.
    sets = ",".join(map(str, (*train, "", *val)))
    identity = hashlib.sha256(f"{root}\n{sets}\n{voc.fingerprint(root, (*train, *val))}".encode()).hexdigest()
    folder = directory / f"voc-{identity[:12]}"
    make_folder(folder, lambda scratch: voc.convert(root, train=train, val=val, target=scratch))
    return LocalDataset(
        train=LocalSplit(images=root, annotations=folder / "train.json"),
        val=LocalSplit(images=root, annotations=folder / "val.json"),
        problems=tuple(voc.read_problems(folder)),
    )


def _image_sets(settings: DatasetSettings) -> tuple[list[PurePosixPath], list[PurePosixPath]]:
    """Of training and of validation."""
    return (
        voc.image_sets(settings.train_annotations, field="dataset.train.annotations"),
        voc.image_sets(settings.val_annotations, field="dataset.val.annotations"),
    )


def _prepare_root(settings: DatasetSettings, directory: Path) -> Path:
    parts = urlsplit(settings.uri)
    if parts.scheme == "file":
        root = Path(parts.path)
        if not root.is_dir():
            raise MissingInput(f"dataset.storageUri: {settings.uri} is not a folder, must be one")
        return root
    if parts.scheme not in ("s3", "synthetic"):
        raise InvalidInput(
            f"dataset.storageUri: got '{settings.uri}', must be s3://bucket/prefix, file:///path or "
            "synthetic://shapes"
        )
    # Settings that name other files of the same prefix make another folder: what is there is then complete.
    identity = hashlib.sha256("\n".join((settings.uri, *_wanted(settings))).encode()).hexdigest()[:12]
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
        train, val = _image_sets(settings)
        parts = (f"{folder}/" for folder in voc.folders((*train, *val)))
        return (*dict.fromkeys((*parts, *map(str, (*train, *val)))),)
    folders = (f"{folder.strip('/')}/" for folder in (settings.train_images, settings.val_images))
    return (*dict.fromkeys((*folders, settings.train_annotations, settings.val_annotations)),)


def _download(settings: DatasetSettings, root: Path) -> None:
    store = open_store(settings.uri, settings.credentials)
    objects: dict[str, StoredObject] = {}
    for prefix in _wanted(settings):
        listed = [item for item in store.list(prefix.removeprefix("./")) if not item.key.endswith("/")]
        if not prefix.endswith("/"):
            listed = [item for item in listed if item.key == prefix]
        if not listed:
            raise MissingInput(
                f"dataset: {settings.uri}/{prefix} does not exist, must be in the object store"
            )
        objects.update((item.key, item) for item in listed)
    # What an interrupted download left is whole: `get_file` puts a file in place only once it is complete.
    missing = [item for item in objects.values() if _size(root / item.key) != item.size]
    _logger.info(
        "downloading the data set", extra={"files": len(missing), "bytes": sum(item.size for item in missing)}
    )
    _fetch(store, missing, root)


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
