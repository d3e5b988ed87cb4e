"""Which jobs are to be reconciled, and when: every key at most once, never twice at the same time.

As client-go's work queue: a key that is added while it is worked on comes again afterwards, one that failed
comes again after a delay that doubles, and all delays wait in one heap behind one timer.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

Key = TypeVar("Key", bound=Hashable)

FIRST_RETRY_SECONDS = 0.25


class Timer(Protocol):
    """Something that is to happen."""

    def cancel(self) -> None:
        """Have it not happen."""


class Clock(Protocol):
    """What delays are measured by. Event loops are such clocks."""

    def time(self) -> float:
        """The seconds of now, which never go back."""

    def call_at(self, when: float, callback: Callable[[], object], /) -> Timer:
        """Call back at a time."""


class WorkQueue(Generic[Key]):
    """A queue of keys for workers of one event loop, whose time it is unless there is another clock."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock
        self._waiting: deque[Key] = deque()
        self._queued: set[Key] = set()
        self._working: set[Key] = set()
        self._again: set[Key] = set()
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._order = 0
        self._timer: Timer | None = None
        self._failures: dict[Key, int] = {}
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        """The number of keys that could be worked on now."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether no key is worked on, and none could be."""
        return not self._waiting and not self._working

    def time(self) -> float:
        """The seconds of now, by the clock that delays are measured by."""
        return self._get_clock().time()

    def add(self, key: Key) -> None:
        """Have `key` worked on as soon as a worker is free."""
        self._due.pop(key, None)
        if key in self._working:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._waiting.append(key)
            self._filled.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """Have `key` worked on in `seconds`, unless it is due earlier anyhow."""
        due = self.time() + seconds
        if key in self._queued or self._due.get(key, due + 1) <= due:
            return
        self._due[key] = due
        self._order += 1
        heapq.heappush(self._heap, (due, self._order, key))
        self._set_timer()

    def retry(self, key: Key, *, longest_seconds: float) -> float:
        """Have `key` worked on after a delay that doubles with every failure; returns its seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = min(FIRST_RETRY_SECONDS * 2.0 ** min(failures, 20), longest_seconds)
        self.add_after(key, delay)
        return delay

    def succeed(self, key: Key) -> None:
        """Forget the failures of `key`."""
        self._failures.pop(key, None)

    def forget(self, key: Key) -> None:
        """Forget everything about `key`: its object is gone."""
        self._failures.pop(key, None)
        self._due.pop(key, None)

    async def get(self) -> Key:
        """The next key, which nobody else is given until `done`."""
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()
        key = self._waiting.popleft()
        self._queued.discard(key)
        self._working.add(key)
        return key

    def done(self, key: Key) -> None:
        """Give `key` back."""
        self._working.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def _get_clock(self) -> Clock:
        return self._clock or asyncio.get_running_loop()

    def _set_timer(self) -> None:
        # Keys that were forgotten or moved are dropped when they surface, not searched for.
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._heap:
            self._timer = self._get_clock().call_at(self._heap[0][0], self._release)

    def _release(self) -> None:
        now = self.time()
        while self._heap and self._heap[0][0] <= now:
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:
                self.add(key)
        self._set_timer()
