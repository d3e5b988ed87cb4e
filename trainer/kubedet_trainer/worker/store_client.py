"""The agents' side of the rendezvous store: what `rendezvous` serves, as a `torch.distributed.Store`."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from torch.distributed import DistNetworkError, DistStoreError, Store  # type: ignore[attr-defined]

from kubedet_trainer.worker.rendezvous import parse_endpoint

_POLL_SECONDS = 0.1

_SILENT_SECONDS = 10
"""After which the kernel gives up a connection whose other node is gone."""


class Connection:
    """Requests to the rendezvous store, one after the other. Threads share it.

    It does not connect again after an error, because the store may have lost its values.
    """

    def __init__(self, endpoint: str, *, timeout_seconds: float) -> None:
        """Connect to ``host:port``.

        Args:
            endpoint: where the store listens.
            timeout_seconds: the longest wait for the connection and for an answer.

        Raises:
            UsageError: `endpoint` is not ``host:port``.
            DistNetworkError: nothing listens there.
        """
        self._endpoint = endpoint
        self._lock = threading.Lock()
        self._is_broken = False
        self._timeout_seconds = timeout_seconds
        try:
            self._socket = socket.create_connection(parse_endpoint(endpoint), timeout=timeout_seconds)
        except OSError as error:
            raise DistNetworkError(f"no rendezvous store at {endpoint}: {error}") from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if sys.platform == "linux":
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _SILENT_SECONDS // 2)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _SILENT_SECONDS // 2)
        self._answers = self._socket.makefile("rb")

    def close(self) -> None:
        """Close the connection. Later requests raise `DistNetworkError`."""
        with self._lock:
            self._is_broken = True
            self._answers.close()
            self._socket.close()

    def request(self, *request: object, timeout_seconds: float | None = None) -> Any:
        """The store's answer to an operation and its arguments.

        Raises:
            DistNetworkError: there is none within `timeout_seconds`, or the connection is lost.
        """
        with self._lock:
            if self._is_broken:
                raise DistNetworkError(f"the connection to the rendezvous store {self._endpoint} is lost")
            self._is_broken = True  # until the answer is here: a signal may end this call halfway
            try:
                self._socket.settimeout(self._timeout_seconds if timeout_seconds is None else timeout_seconds)
                self._socket.sendall(json.dumps(request).encode() + b"\n")
                answer = json.loads(self._answers.readline())
            except (OSError, ValueError) as error:
                raise DistNetworkError(
                    f"the rendezvous store {self._endpoint} does not answer: {error}"
                ) from error
            self._is_broken = False
            return answer


class StoreClient(Store):
    """The values in the rendezvous store, by a connection of its own.

    Threads share it: a thread that waits for a key lets the calls of another one through. Keep a reference
    for as long as torch uses the store: torch's wrappers hold only its C++ half.
    """

    def __init__(self, endpoint: str, *, timeout_seconds: float) -> None:
        """Connect to ``host:port``.

        Args:
            endpoint: where the store listens.
            timeout_seconds: the longest wait for an answer, and for a key unless the caller says otherwise.

        Raises:
            UsageError: `endpoint` is not ``host:port``.
            DistNetworkError: nothing listens there.
        """
        super().__init__()
        self.set_timeout(timedelta(seconds=timeout_seconds))
        self._connection = Connection(endpoint, timeout_seconds=timeout_seconds)

    def close(self) -> None:
        """Close the connection. Later calls raise `DistNetworkError`."""
        self._connection.close()

    def set(self, key: str, value: str | bytes) -> None:
        """Set the value of `key`."""
        self._connection.request("set", key, _text(value))

    def get(self, key: str) -> bytes:
        """The value of `key`. Waits until somebody has set it.

        Raises:
            DistStoreError: nobody has in time.
        """
        return self._wait_for(key, self._deadline())

    def add(self, key: str, amount: int) -> int:
        """Add to the counter `key`, which begins at 0. Returns the sum."""
        return int(self._connection.request("add", key, amount))

    def compare_set(self, key: str, expected: str | bytes, desired: str | bytes) -> bytes:
        """Set `key` to `desired` if it is `expected`, or absent and `expected` empty. Returns the value."""
        return _bytes(self._connection.request("compare_set", key, _text(expected), _text(desired)))

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        """Wait until all `keys` are set.

        Raises:
            DistStoreError: they are not in time.
        """
        deadline = self._deadline(timeout)
        for key in keys:
            self._wait_for(key, deadline)

    def _deadline(self, timeout: timedelta | None = None) -> float:
        allowed: timedelta = self.timeout if timeout is None else timeout  # type: ignore[attr-defined]
        return time.monotonic() + allowed.total_seconds()

    def _wait_for(self, key: str, deadline: float) -> bytes:
        while (value := self._connection.request("get", key)) is None:
            if time.monotonic() > deadline:
                raise DistStoreError(f"nobody has set '{key}' in the rendezvous store in time")
            time.sleep(_POLL_SECONDS)
        return _bytes(value)


def _text(value: str | bytes) -> str:
    return (value.encode() if isinstance(value, str) else value).decode("latin-1")  # a byte a character


def _bytes(value: str) -> bytes:
    return value.encode("latin-1")
