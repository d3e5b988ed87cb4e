"""Files and folders that other processes read: they see what was before or what is new, never half of it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

HALF_WRITTEN_PREFIX = ".half-"
"""Of the name of a file that is being written, and stays when its writer dies."""


@contextmanager
def replacing(target: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of `target` at the end, whole, or not at all.

    A `durable` one is on the disk by then and survives a loss of power, which costs two waits for the disk.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=HALF_WRITTEN_PREFIX, delete=False) as file:
        try:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
            os.chmod(file.name, 0o644)  # a temporary file is private; what it becomes is not
            os.replace(file.name, target)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    if durable:
        _sync_folder(target.parent)


def write_json(file: Path, document: Mapping[str, object]) -> None:
    """Replace `file` by `document`; it need not survive a loss of power."""
    with replacing(file, durable=False) as content:
        content.write(json.dumps(document).encode())


def make_folder(folder: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write into a new folder, which then becomes `folder`; do nothing where it exists.

    If several processes ask together, one fills it and the others wait.
    """
    if folder.is_dir():
        return
    with locked(folder):
        if folder.is_dir():
            return
        scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            fill(scratch)
            scratch.chmod(0o755)  # a temporary folder is private; what it becomes is not
            scratch.replace(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Let one process at a time work on `target`; its parent folder is made where it is not there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
