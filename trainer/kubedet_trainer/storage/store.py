"""What a place for objects offers, whatever it is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kubedet_trainer.errors import MissingInput

SMALL_BYTES = 64 << 20
"""The most that `Store.get_bytes` reads into memory."""


class Sink(Protocol):
    """What bytes can be written to."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Append `data`; returns its length."""


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """One object as a listing shows it."""

    key: str
    """Relative to the store's URI."""
    size: int
    """Bytes."""


class Store(Protocol):
    """Objects below one URI; keys are relative paths with ``/``.

    All methods raise `CredentialsRefused`, `MissingInput` or `StorageUnreachable`; `delete` and `exists` do
    not mind an absent object. A reader sees an object whole or not at all.
    """

    uri: str
    """The URI without a trailing slash."""

    def put_bytes(self, key: str, *, data: bytes) -> None:
        """Store `data` under `key`, durably once this returns."""

    def writing(self, key: str) -> AbstractContextManager[Sink]:
        """What is written within the block becomes the object at its end, durably, or not at all.

        It is stored while it is written: neither memory nor a disk holds a second copy.
        """

    def get_bytes(self, key: str) -> bytes:
        """The whole object, which is small.

        Raises:
            MissingInput: it has more than `SMALL_BYTES`, so it is another object than was meant.
        """

    def get_file(self, key: str, *, target: Path) -> None:
        """Write the object to `target`, making its folder; `target` is never seen half-written."""

    def sha256(self, key: str) -> str:
        """The hash of the object as the store gives it back, in hexadecimal."""

    def exists(self, key: str) -> bool:
        """Whether there is an object under exactly this key."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete in the order given."""

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Every object whose key starts with `prefix`, sorted by key."""

    def sweep(self) -> None:
        """Remove what writers that died have left half-written, where the store does not do so itself."""


def require_small(data: bytes, *, where: str) -> bytes:
    """`data`, which was read from `where` up to one byte more than `SMALL_BYTES`.

    Raises:
        MissingInput: it has that byte.
    """
    if len(data) > SMALL_BYTES:
        raise MissingInput(f"{where}: has more than {SMALL_BYTES >> 20} MiB, so it is not what was expected")
    return data
