"""Copies of the training state in host memory, where no later step changes them.

A copy goes into memory that was there before: new memory would cost more time than the copy itself. On a CPU
a thread copies what only the next update changes, while the step before that update computes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kubedet_trainer.training.state import TrainState

_ALIGNMENT = 64
"""Bytes; a line of the cache."""


class HostBuffer:
    """Host memory for one copy of a state, used again for every later copy of the same layout."""

    def __init__(self) -> None:
        self._layout: list[_Layout] = []
        self._tensors: list[Tensor] = []

    def prepare(self, value: Any) -> None:
        """Allocate what a copy of `value` needs, unless it is there; pinned where tensors are on a GPU."""
        tensors = list(_tensors_of(value))
        layout = [_Layout.of(tensor) for tensor in tensors]
        if layout == self._layout:
            return
        size = sum(item.padded_bytes for item in layout)
        is_pinned = any(tensor.is_cuda for tensor in tensors)
        # Filled, because pages are handed out when they are first written to.
        memory = torch.empty(size, dtype=torch.uint8, pin_memory=is_pinned).fill_(0).numpy()
        self._tensors = []
        offset = 0
        for item in layout:
            self._tensors.append(item.place(memory, offset=offset))
            offset += item.padded_bytes
        self._layout = layout

    def copy(self, value: Any, *, later: Collection[int] = ()) -> tuple[Any, Callable[[], None]]:
        """Copy all tensors in `value`; from a GPU the copies are only begun.

        Args:
            value: mappings and lists of tensors and plain values.
            later: addresses of tensors of the host that need not be copied yet.

        Returns:
            `value` in this memory, and a function that copies what was left for later.
        """
        self.prepare(value)
        left: list[tuple[Tensor, Tensor]] = []

        def place(source: Tensor, target: Tensor) -> None:
            if source.data_ptr() in later and not source.is_cuda:
                left.append((source, target))
            else:
                _copy(source, target)

        def copy_rest() -> None:
            for source, target in left:
                _copy(source, target)

        return _replaced(value, iter(self._tensors), place), copy_rest


@dataclass(kw_only=True)
class Snapshot:
    """A state in host memory that no later step changes, once its copy is whole."""

    iteration: int
    epoch: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    state: Mapping[str, Any]
    """Whole once `wait` has returned."""
    stall_seconds: float
    """How long it has kept the training waiting, apart from the device."""
    events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
    """On a GPU, before and after the copies."""
    copying: threading.Thread | None = None
    """Copies what only the next update changes; None where that is done."""
    require_sound: Callable[[], None] = lambda: None
    """Raises where the state is not worth keeping; waits for the device."""

    def wait(self) -> None:
        """Wait until the copy is whole."""
        if self.copying is not None:
            self.copying.join()
        if self.events is not None:
            self.events[1].synchronize()

    def release(self) -> None:
        """Let the training change its state from now on, which waits for the copy; on a GPU nobody waits."""
        if self.copying is not None:
            started = time.perf_counter()
            self.copying.join()
            self.stall_seconds += time.perf_counter() - started

    def total_stall_seconds(self) -> float:
        """Seconds for which training stood still for it, known once it is whole.

        Host and device stand still at the same time, so the longer of both counts.
        """
        if self.events is None:
            return self.stall_seconds
        started, ended = self.events
        device_seconds: float = started.elapsed_time(ended) / 1000
        return max(self.stall_seconds, device_seconds)


def take_snapshot(
    state: TrainState,
    *,
    epoch: int,
    metrics: Mapping[str, float] | None = None,
    buffer: HostBuffer | None = None,
    require_sound: Callable[[], None] = lambda: None,
    waited_seconds: float = 0.0,
    is_released_later: bool = False,
) -> Snapshot:
    """Copy `state` to host memory, into `buffer` if it is given, after waiting `waited_seconds` for it.

    On a GPU the copies are queued between this step and the next; nobody waits for them but who reads them.
    With `is_released_later`, `Snapshot.release` must be called before the next update of the state.
    """
    started = time.perf_counter()
    events = _Events() if next(state.model.parameters()).is_cuda else None
    later = _changed_by_update(state) if is_released_later else ()
    copied, copy_rest = (buffer or HostBuffer()).copy(state.state_dict(), later=later)
    copying = threading.Thread(target=copy_rest, name="copy", daemon=True) if later else None
    if copying is not None:
        copying.start()
    return Snapshot(
        iteration=state.iteration,
        epoch=epoch,
        metrics=dict(metrics or {}),
        state=copied,
        stall_seconds=waited_seconds + time.perf_counter() - started,
        events=None if events is None else events.end(),
        copying=copying,
        require_sound=require_sound,
    )


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Where a tensor's elements lie; two states of the same layout fit into the same memory."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> _Layout:
        # Of a tensor with holes, the strides of a dense one.
        dense = torch.empty_like(tensor, device="meta")
        return cls(shape=dense.shape, stride=dense.stride(), dtype=dense.dtype)

    @property
    def padded_bytes(self) -> int:
        size = self.shape.numel() * self.dtype.itemsize
        return -(-size // _ALIGNMENT) * _ALIGNMENT

    def place(self, memory: Any, *, offset: int) -> Tensor:
        """A tensor in `memory` with a storage of its own, so that it is saved without its neighbours."""
        count = self.shape.numel()
        if count == 0:
            return torch.empty(self.shape, dtype=self.dtype)
        flat = torch.frombuffer(memory, dtype=self.dtype, count=count, offset=offset)
        return flat.as_strided(self.shape, self.stride)


class _Events:
    """Two moments of the device, between which the copies happen."""

    def __init__(self) -> None:
        self._start = _timed_event()
        self._start.record()

    def end(self) -> tuple[torch.cuda.Event, torch.cuda.Event]:
        end = _timed_event()
        end.record()
        return self._start, end


def _timed_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _tensors_of(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors_of(item)


def _replaced(value: Any, targets: Iterator[Tensor], place: Callable[[Tensor, Tensor], None]) -> Any:
    """`value` with each tensor placed into the next of `targets`, in the order of `_tensors_of`."""
    if isinstance(value, Tensor):
        target = next(targets)
        place(value.detach(), target)
        return target
    if isinstance(value, dict):
        return {key: _replaced(item, targets, place) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, targets, place) for item in value]
    return value


def _changed_by_update(state: TrainState) -> frozenset[int]:
    """Addresses of parameters and of what the optimiser keeps of them. A forward pass may change the rest."""
    kept = (value for values in state.optimizer.state.values() for value in values.values())
    tensors = [*state.model.parameters(), *(value for value in kept if isinstance(value, Tensor))]
    return frozenset(tensor.data_ptr() for tensor in tensors)


def _copy(source: Tensor, target: Tensor) -> None:
    if source.is_cuda or source.stride() != target.stride():
        target.copy_(source, non_blocking=True)
    elif source.numel():
        # One thread and no lock: torch would meet all its threads at each of hundreds of tensors.
        np.copyto(_bytes_of(target), _bytes_of(source))


def _bytes_of(tensor: Tensor) -> NDArray[np.uint8]:
    """The memory of a dense tensor."""
    flat: NDArray[np.uint8] = tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy()
    return flat
