"""What a place for objects offers, whatever it is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


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

    def put_file(self, key: str, *, source: Path) -> None:
        """Store the content of `source` under `key`, durably once this returns."""

    def get_bytes(self, key: str) -> bytes:
        """The whole object."""

    def get_file(self, key: str, *, target: Path) -> None:
        """Write the object to `target`, making its folder; `target` is never seen half-written."""

    def exists(self, key: str) -> bool:
        """Whether there is an object under exactly this key."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete in the order given."""

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Every object whose key starts with `prefix`, sorted by key."""
