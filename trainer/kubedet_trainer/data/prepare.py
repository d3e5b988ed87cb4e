"""Makes a data set local before training: downloads it, generates it, or finds it where it is mounted.

The launcher does this once for all ranks of a pod; a rank calls it again only to learn the path. Imports no
torch.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, fields
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from kubedet_trainer import storage
from kubedet_trainer.data import synthetic
from kubedet_trainer.data.synthetic import ShapesDataset
from kubedet_trainer.errors import InvalidInput, MissingInput, did_you_mean
from kubedet_trainer.settings import DatasetSettings
from kubedet_trainer.storage import Store, StoredObject

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
    if settings.format != "COCO":
        raise InvalidInput(f"dataset.format: got '{settings.format}', must be COCO")
    root = _prepare_root(settings, directory)
    return LocalDataset(
        train=LocalSplit(images=root / settings.train_images, annotations=root / settings.train_annotations),
        val=LocalSplit(images=root / settings.val_images, annotations=root / settings.val_annotations),
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
    done = directory / f"{identity}.complete"
    if not done.exists():
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / f"{identity}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                if parts.scheme == "s3":
                    _download(settings, root)
                else:
                    _generate(parse_shapes(settings.uri), root)
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


def _generate(dataset: ShapesDataset, root: Path) -> None:
    scratch = Path(tempfile.mkdtemp(dir=root.parent, prefix=f"{root.name}."))
    shutil.rmtree(root, ignore_errors=True)
    synthetic.write_shapes(dataset, folder=scratch)
    scratch.chmod(0o755)
    scratch.replace(root)


def _wanted(settings: DatasetSettings) -> tuple[str, ...]:
    """Keys and prefixes that training needs: a bucket often holds test images too, which are not fetched."""
    folders = (f"{folder.strip('/')}/" for folder in (settings.train_images, settings.val_images))
    return (*dict.fromkeys((*folders, settings.train_annotations, settings.val_annotations)),)


def _download(settings: DatasetSettings, root: Path) -> None:
    store = storage.open_store(settings.uri, settings.credentials)
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
