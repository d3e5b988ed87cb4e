"""A folder of a local or mounted file system as a store."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import unquote_to_bytes, urlsplit

from kubedet_trainer.errors import CredentialsRefused, InvalidInput, MissingInput, StorageUnreachable
from kubedet_trainer.storage.files import HALF_WRITTEN_PREFIX, replacing
from kubedet_trainer.storage.store import SMALL_BYTES, Sink, Store, StoredObject, require_small

_ABANDONED_SECONDS = 86400
"""After so long without a change a half-written file is nobody's any more, even if a clock was set."""


def open_folder(uri: str) -> Store:
    """The folder at ``file:///absolute/path``; it need not be there yet.

    Raises:
        InvalidInput: the URI is malformed.
    """
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise InvalidInput(f"{uri}: must be file:///absolute/path")
    return _FolderStore(uri=uri.rstrip("/"), root=path_of(uri))


def path_of(uri: str) -> Path:
    """The path that a ``file://`` URI names, whatever bytes its name has."""
    return Path(decode_path(urlsplit(uri).path))


def decode_path(quoted: str) -> str:
    """A quoted part of a URI as a path of this machine, whose bytes need not be UTF-8."""
    return os.fsdecode(unquote_to_bytes(quoted))


class _FolderStore:
    """A folder of a local or mounted file system."""

    def __init__(self, *, uri: str, root: Path) -> None:
        self.uri = uri
        self._root = root

    def put_bytes(self, key: str, *, data: bytes) -> None:
        with self._explained(key), replacing(self._path(key)) as file:
            file.write(data)

    @contextmanager
    def writing(self, key: str) -> Iterator[Sink]:
        with self._explained(key), replacing(self._path(key)) as file:
            yield file

    def get_bytes(self, key: str) -> bytes:
        with self._explained(key), self._path(key).open("rb") as file:
            data = file.read(SMALL_BYTES + 1)
        return require_small(data, where=f"{self.uri}/{key}")

    def get_file(self, key: str, *, target: Path) -> None:
        with self._explained(key), self._path(key).open("rb") as content, replacing(target) as file:
            shutil.copyfileobj(content, file)

    def sha256(self, key: str) -> str:
        with self._explained(key), self._path(key).open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()

    def exists(self, key: str) -> bool:
        with self._explained(key):
            return self._path(key).is_file()

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            with self._explained(key):
                path = self._path(key)
                path.unlink(missing_ok=True)
                self._remove_empty(path.parent)

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        with self._explained(prefix):
            found = [
                StoredObject(key=path.relative_to(self._root).as_posix(), size=path.stat().st_size)
                for path in self._path(prefix[: prefix.rfind("/") + 1]).rglob("*")
                if path.is_file() and not path.name.startswith(".")
            ]
        yield from sorted((item for item in found if item.key.startswith(prefix)), key=lambda item: item.key)

    def sweep(self) -> None:
        with self._explained(""):
            for path in self._root.rglob(f"{HALF_WRITTEN_PREFIX}*"):
                if path.is_file() and time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    path.unlink(missing_ok=True)
                    self._remove_empty(path.parent)

    def _path(self, key: str) -> Path:
        if ".." in PurePosixPath(key).parts or key.startswith("/"):
            raise InvalidInput(f"{self.uri}: key '{key}' must stay below the store's folder")
        return self._root / key

    def _remove_empty(self, folder: Path) -> None:
        """Remove the folders that a deleted object leaves empty: S3 has no folders, so neither has this."""
        while folder != self._root and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise MissingInput(
                f"{self.uri}/{key}: there is no such file; check the URI and the mount"
            ) from error
        except FileExistsError as error:  # from making a folder
            raise InvalidInput(f"{self.uri}/{key}: a file is in its place, must be below a folder") from error
        except OSError as error:
            reason = error.strerror or str(error)
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise CredentialsRefused(
                    f"{self.uri}/{key}: {reason}; make it accessible to user {os.getuid()}"
                ) from error
            raise StorageUnreachable(f"{self.uri}/{key}: {reason}; check the disk or the mount") from error
