"""Copies of the training state in host memory, where no later step changes them.

A copy goes into memory that was there before: new memory would cost more time than the copy itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
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

    def copy(self, value: Any) -> Any:
        """`value` with all tensors in it copied; from a GPU the copies are only begun."""
        self.prepare(value)
        return _replaced(value, iter(self._tensors))


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A state in host memory that no later step changes."""

    iteration: int
    epoch: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    state: Mapping[str, Any]
    """Whole once `wait` has returned."""
    stall_seconds: float
    """How long taking it kept the training waiting, apart from the device."""
    events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
    """On a GPU, before and after the copies."""
    require_sound: Callable[[], None] = lambda: None
    """Raises where the state is not worth keeping; waits for the device."""

    def wait(self) -> float:
        """Wait until the copy is whole; returns the seconds for which training stood still for it.

        Host and device stand still at the same time, so the longer of both counts.
        """
        if self.events is None:
            return self.stall_seconds
        started, ended = self.events
        ended.synchronize()
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
) -> Snapshot:
    """Copy `state` to host memory, into `buffer` if it is given, after waiting `waited_seconds` for it.

    On a GPU the copies are queued between this step and the next; nobody waits for them but who reads them.
    """
    started = time.perf_counter()
    events = _Events() if next(state.model.parameters()).is_cuda else None
    copied = (buffer or HostBuffer()).copy(state.state_dict())
    return Snapshot(
        iteration=state.iteration,
        epoch=epoch,
        metrics=dict(metrics or {}),
        state=copied,
        stall_seconds=waited_seconds + time.perf_counter() - started,
        events=None if events is None else events.end(),
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


def _replaced(value: Any, targets: Iterator[Tensor]) -> Any:
    """`value` with each tensor copied into the next of `targets`, in the order of `_tensors_of`."""
    if isinstance(value, Tensor):
        return next(targets).copy_(value.detach(), non_blocking=True)
    if isinstance(value, dict):
        return {key: _replaced(item, targets) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, targets) for item in value]
    return value
