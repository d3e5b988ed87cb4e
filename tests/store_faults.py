"""A store whose calls fail, are slow, lag behind or kill the process, and damage to what is stored."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kubedet_trainer.errors import StorageUnreachable
from kubedet_trainer.storage.store import Sink, Store, StoredObject

CALL_FAULTS = ("killed before", "killed after", "503 before", "503 after", "slow")
"""What may happen to any call."""
WRITE_FAULTS = ("killed within", "half an upload", "disk full")
"""What may happen besides to a call that writes a large object."""
LIST_FAULTS = ("stale list",)
READ_FAULTS = ("half a download", "bit flipped on the way")


class FaultyStore:
    """A store of which every call may go wrong; it tells before it does."""

    def __init__(
        self,
        store: Store,
        *,
        chance: float,
        fate: random.Random,
        tell: Callable[..., None],
        stale_keys: list[str],
    ) -> None:
        self.uri = store.uri
        self._store = store
        self._chance = chance
        self._fate = fate
        self._tell = tell
        self._stale_keys = stale_keys
        """What a list shows that lags behind: what was there before the process began."""

    def put_bytes(self, key: str, *, data: bytes) -> None:
        with self._call():
            self._store.put_bytes(key, data=data)

    @contextmanager
    def writing(self, key: str) -> Iterator[Sink]:
        with self._call(*WRITE_FAULTS) as fault, self._store.writing(key) as sink:
            is_local = self.uri.startswith("file:")
            yield sink if fault not in WRITE_FAULTS else _FaultySink(sink, fault, is_local=is_local)

    def get_bytes(self, key: str) -> bytes:
        with self._call():
            return self._store.get_bytes(key)

    def get_file(self, key: str, *, target: Path) -> None:
        with self._call(*READ_FAULTS) as fault:
            self._store.get_file(key, target=target)
            if fault in READ_FAULTS:
                content = bytearray(target.read_bytes())
                if fault == "half a download":
                    del content[len(content) // 2 :]
                else:
                    content[len(content) // 2] ^= 1
                target.write_bytes(content)

    def sha256(self, key: str) -> str:
        with self._call():
            return self._store.sha256(key)

    def exists(self, key: str) -> bool:
        with self._call():
            return self._store.exists(key)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            with self._call():
                self._store.delete([key])

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        with self._call(*LIST_FAULTS) as fault:
            found = list(self._store.list(prefix))
        if fault == "stale list":
            found = [item for item in found if item.key in self._stale_keys]
        yield from found

    def sweep(self) -> None:
        with self._call():
            self._store.sweep()

    @contextmanager
    def _call(self, *others: str) -> Iterator[str | None]:
        """A call around which something may happen."""
        fault = None
        if self._fate.random() < self._chance:
            fault = self._fate.choice((*CALL_FAULTS, *others))
            self._tell(fault=fault)
        if fault == "killed before":
            _kill()
        if fault == "503 before":
            raise StorageUnreachable("503 before it was done")
        if fault == "slow":
            time.sleep(0.05)
        yield fault
        if fault == "killed after":
            _kill()
        if fault == "503 after":
            raise StorageUnreachable("503 after it was done")


class _FaultySink:
    """Passes the first half of what is written on, roughly, and then fails as `fault` says."""

    def __init__(self, sink: Sink, fault: str, *, is_local: bool) -> None:
        self._sink = sink
        self._is_local = is_local
        self._fault = fault
        self._writes = 0

    def write(self, data: bytes | memoryview) -> int:
        self._writes += 1
        if self._writes == 1 or len(data) < 1000:
            return self._sink.write(data)
        self._sink.write(memoryview(data)[: len(data) // 2])
        if self._fault == "killed within":
            _kill()
        if self._fault == "disk full" and self._is_local:
            raise OSError(errno.ENOSPC, "No space left on device")
        raise StorageUnreachable("the connection broke in the middle of an upload")


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


@dataclass(frozen=True, kw_only=True)
class Damage:
    """A way to break an object that is stored."""

    suits: Callable[[str], bool]
    harm: Callable[[Store, str, random.Random], None]


def _truncate(store: Store, key: str, fate: random.Random) -> None:
    data = store.get_bytes(key)
    store.put_bytes(key, data=data[: fate.randrange(len(data) or 1)])


def _flip(store: Store, key: str, fate: random.Random) -> None:
    data = bytearray(store.get_bytes(key) or bytes(1))
    data[fate.randrange(len(data))] ^= 1 << fate.randrange(8)
    store.put_bytes(key, data=bytes(data))


def _remove(store: Store, key: str, fate: random.Random) -> None:
    store.delete([key])


def _retype(store: Store, key: str, fate: random.Random) -> None:
    try:
        document = json.loads(store.get_bytes(key))
    except ValueError:
        document = None
    if not isinstance(document, dict):  # it was damaged before
        _scribble(store, key, fate)
        return
    name = fate.choice(sorted(document))
    document[name] = fate.choice([None, "text", 10**30, -1, [], {"a": 1}, 1.5, True])
    store.put_bytes(key, data=json.dumps(document).encode())


def _scribble(store: Store, key: str, fate: random.Random) -> None:
    content = fate.choice([b"", b"{", b"[" * 5000, b"null", b"9" * 10_000, b"\xff\xfe", fate.randbytes(300)])
    store.put_bytes(key, data=content)


def _is_manifest(key: str) -> bool:
    return key.endswith("manifest.json")


DAMAGES = {
    "truncated": Damage(suits=lambda key: True, harm=_truncate),
    "bit flipped at rest": Damage(suits=lambda key: True, harm=_flip),
    "object lost": Damage(suits=lambda key: True, harm=_remove),
    "manifest of other types": Damage(suits=_is_manifest, harm=_retype),
    "manifest is something else": Damage(suits=_is_manifest, harm=_scribble),
}
"""By name."""
