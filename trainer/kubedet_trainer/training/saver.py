"""Saves next to the training: a thread serialises, writes and commits what the training only copies.

Serialising, hashing and sending release the interpreter most of the time; `benchmarks/saves.py` measures what
the training keeps of its speed. A process of its own would have to import torch and to receive the state.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kubedet_trainer.contract import CheckpointStatus
from kubedet_trainer.training.checkpoint import STORE_FAILURES, Checkpointer
from kubedet_trainer.training.snapshot import HostBuffer, Snapshot, take_snapshot
from kubedet_trainer.training.state import TrainState

_FIRST_DELAY_SECONDS = 1.0
_LONGEST_DELAY_SECONDS = 60.0
_URGENT_DELAY_SECONDS = 1.0
"""Before a failed save is tried again: first, at most, and while somebody waits for it."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Task:
    """Something to write."""

    name: str
    write: Callable[[], CheckpointStatus | None]
    buffer: HostBuffer | None = None
    """What it reads, free once it is written; None for what is small."""


class Saver:
    """Writes snapshots one after the other, from two buffers in turn.

    A save that fails is tried again until it succeeds or a newer snapshot takes its place. Only when none has
    succeeded for `patience_seconds` is the failure raised, in the thread of the training.
    """

    def __init__(
        self,
        checkpointer: Checkpointer,
        *,
        patience_seconds: float,
        on_failure: Callable[[], None],
        mark: Path | None = None,
    ) -> None:
        """Start nothing yet: only rank 0 saves.

        Args:
            checkpointer: used by the thread alone while it has something to write.
            patience_seconds: how long saves may fail.
            on_failure: is called in the thread after each attempt that failed.
            mark: exists while something is being written, for processes that would end this one.
        """
        self._checkpointer = checkpointer
        self._patience_seconds = patience_seconds
        self._on_failure = on_failure
        self._mark = mark
        self._free = [HostBuffer(), HostBuffer()]
        self._tasks: deque[_Task] = deque()
        self._committed: deque[CheckpointStatus] = deque()
        self._failing_since: float | None = None
        self.last_error: Exception | None = None
        """Why the newest attempt failed; None if it did not."""
        self._fatal: Exception | None = None
        self._is_urgent = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._unreleased: Snapshot | None = None

    def is_idle(self) -> bool:
        """Whether everything is written."""
        return not self._tasks

    def prepare(self, state: TrainState) -> None:
        """Allocate memory for the first copy of a state like this one, meanwhile."""
        value = state.state_dict()
        buffer = self._free[-1]

        def allocate() -> None:
            buffer.prepare(value)

        self._free.remove(buffer)
        self._append(_Task(name="the memory of copies", write=allocate, buffer=buffer))

    def save(self, state: TrainState, *, epoch: int, require_sound: Callable[[], None]) -> None:
        """Begin to copy `state` and have it written. Waits if both buffers are being written.

        Args:
            state: `release` must be called before it is updated.
            epoch: epochs finished.
            require_sound: raises, in the thread, where the state is not worth keeping.
        """
        started = time.perf_counter()
        with self._changed:
            self._changed.wait_for(lambda: self._free or self._fatal)
            if self._fatal is not None:
                return  # `collect` raises it
            buffer = self._free.pop()
        waited = time.perf_counter() - started
        snapshot = take_snapshot(
            state,
            epoch=epoch,
            buffer=buffer,
            require_sound=require_sound,
            waited_seconds=waited,
            is_released_later=True,
        )
        self._unreleased = snapshot
        self._append(_snapshot_task(self._checkpointer, snapshot, buffer=buffer))

    def release(self) -> None:
        """Let the training update its state from now on. Call it before each update; it costs little."""
        if self._unreleased is not None:
            self._unreleased.release()
            self._unreleased = None

    def add_metrics(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Have the figures of an evaluation noted in the checkpoint of `iteration`."""
        self.write_later(
            f"the metrics of iteration {iteration}",
            lambda: self._checkpointer.add_metrics(iteration, metrics=metrics),
        )

    def write_later(self, name: str, write: Callable[[], None]) -> None:
        """Have something small stored after what was handed over before it.

        Args:
            name: what messages call it.
            write: is called in the thread, again where the store fails.
        """
        self._append(_Task(name=name, write=write))

    def collect(self) -> list[CheckpointStatus]:
        """What has been committed since the last call.

        Raises:
            TrainerError: saves have failed for too long, or the state is not worth keeping.
        """
        committed = []
        while self._committed:
            committed.append(self._committed.popleft())
        if self._fatal is not None and not committed:
            raise self._fatal
        return committed

    def wait(self, seconds: float) -> bool:
        """Wait at most so long until everything is written; returns whether it is. Hurries failing saves."""
        with self._changed:
            self._is_urgent = True
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: not self._tasks or self._fatal is not None, seconds)
            finally:
                self._is_urgent = False

    def _append(self, task: _Task) -> None:
        if self._mark is not None and task.buffer is not None:
            self._mark.touch()
        with self._changed:
            self._tasks.append(task)
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="saver", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._tasks)
                task = self._tasks[0]
            self._finish(task)
            with self._changed:
                self._tasks.popleft()
                if task.buffer is not None:
                    self._free.append(task.buffer)
                if self._mark is not None and not self._tasks:
                    self._mark.unlink(missing_ok=True)
                self._changed.notify_all()

    def _finish(self, task: _Task) -> None:
        """Write `task`, however often that takes, unless a newer snapshot makes it needless."""
        delay = _FIRST_DELAY_SECONDS
        while self._fatal is None:
            try:
                status = task.write()
            except STORE_FAILURES as error:
                if self._has_no_patience(error):
                    return
                _log.warning("%s is not saved yet: %s; trying again", task.name, error)
                if self._is_superseded(task, after_seconds=delay):
                    _log.warning("%s is not saved: a newer state takes its place", task.name)
                    return
                delay = min(2 * delay, _LONGEST_DELAY_SECONDS)
            except Exception as error:
                self._fatal = error
            else:
                self.last_error = self._failing_since = None
                if status is not None:
                    self._committed.append(status)
                return

    def _has_no_patience(self, error: Exception) -> bool:
        """Count a failed attempt; returns whether the training has to end for it."""
        self._on_failure()
        self.last_error = error
        if self._failing_since is None:
            self._failing_since = time.monotonic()
        if time.monotonic() - self._failing_since < self._patience_seconds:
            return False
        self._fatal = error
        return True

    def _is_superseded(self, task: _Task, *, after_seconds: float) -> bool:
        """Sleep before the next attempt; returns at once, with True, where a newer snapshot waits."""

        def is_needless() -> bool:
            return any(other.buffer is not None for other in self._tasks if other is not task)

        deadline = time.monotonic() + after_seconds
        with self._changed:
            while not is_needless() and (left := deadline - time.monotonic()) > 0:
                if self._is_urgent:
                    deadline = min(deadline, time.monotonic() + _URGENT_DELAY_SECONDS)
                    left = min(left, _URGENT_DELAY_SECONDS)
                self._changed.wait(left)
            return is_needless()


def _snapshot_task(checkpointer: Checkpointer, snapshot: Snapshot, *, buffer: HostBuffer) -> _Task:
    return _Task(
        name=f"the state of iteration {snapshot.iteration}",
        write=lambda: checkpointer.save(snapshot),
        buffer=buffer,
    )
