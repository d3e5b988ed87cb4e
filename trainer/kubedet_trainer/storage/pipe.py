"""Bytes from a writer in one thread to a reader in another: in order, whole, with bounded memory.

An operating system's pipe would do, but a loader process that is forked meanwhile would hold it open.
"""

from __future__ import annotations

import threading
from collections import deque

_MOST_BYTES = 8 << 20
"""How far the writer may be ahead."""


class BrokenTransfer(Exception):
    """The other side has given up; its own error says why."""


class Pipe:
    """A file to write for one thread, and to read for another. Neither sees half of a transfer as a whole."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._held = 0
        self._is_complete = False
        self._is_broken = False
        self._changed = threading.Condition()

    def write(self, data: bytes | memoryview) -> int:
        """Append `data`; waits while the reader is far behind.

        Raises:
            BrokenTransfer: the reader has given up.
        """
        view = memoryview(data).cast("B")
        for start in range(0, len(view), _MOST_BYTES):
            piece = bytes(view[start : start + _MOST_BYTES])
            with self._changed:
                self._changed.wait_for(lambda: self._is_broken or self._held < _MOST_BYTES)
                if self._is_broken:
                    raise BrokenTransfer
                self._pieces.append(piece)
                self._held += len(piece)
                self._changed.notify_all()
        return len(view)

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer only at the end; waits for the writer.

        Raises:
            BrokenTransfer: the writer has given up.
        """
        parts: list[bytes] = []
        while size > 0 and (piece := self._take(size)):
            parts.append(piece)
            size -= len(piece)
        return b"".join(parts)

    def complete(self) -> None:
        """Tell the reader that everything has been written."""
        with self._changed:
            self._is_complete = True
            self._changed.notify_all()

    def give_up(self) -> None:
        """Wake the other side, which then raises `BrokenTransfer`. Not after both are done."""
        with self._changed:
            self._is_broken = True
            self._changed.notify_all()

    def _take(self, size: int) -> bytes:
        with self._changed:
            self._changed.wait_for(lambda: self._is_broken or self._is_complete or self._pieces)
            if self._is_broken:
                raise BrokenTransfer
            if not self._pieces:
                return b""
            piece = self._pieces.popleft()
            if len(piece) > size:
                self._pieces.appendleft(piece[size:])
                piece = piece[:size]
            self._held -= len(piece)
            self._changed.notify_all()
            return piece
