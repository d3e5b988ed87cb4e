"""Losses, their first bad value, and times: what the training loop watches without waiting for the device."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

_MAX_TERMS = 64
_ALARM_LIMIT = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class IntervalLosses:
    """The mean losses of one log interval."""

    iteration: int
    """How many iterations were done at the end of the interval."""
    means: dict[str, float]
    """By term of the loss."""


class LossMonitor:
    """Sums the terms of the loss on the device, and notes there which was the first to be NaN or infinite.

    On a GPU the sums of an interval are copied in the background and read one interval later.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._terms: tuple[str, ...] = ()
        self._sums = torch.zeros(0, device=device)
        self._first_bad = torch.zeros(0, dtype=torch.int64, device=device)
        self._count = 0
        self._pending: _Copy | None = None
        self.alarm = 0
        """0 without a bad value; otherwise a number that is larger, the earlier the first bad value came."""

    def record(self, iteration: int, terms: Mapping[str, Tensor]) -> None:
        """Add the terms of step `iteration`, counted from 1: scalars, and the same terms in every step."""
        values = torch.stack([value.detach().float() for value in terms.values()])
        if not self._terms:
            self._terms = tuple(terms)
            self._sums = torch.zeros_like(values)
            self._first_bad = torch.zeros_like(values, dtype=torch.int64)
        self._sums += values
        self._count += 1
        self._first_bad.masked_fill_(~values.isfinite() & (self._first_bad == 0), iteration)

    def close_interval(self, iteration: int, *, is_last: bool = False) -> list[IntervalLosses]:
        """End a log interval. Returns the losses of the intervals that have arrived; if `is_last`, of all."""
        copies = [
            copy
            for copy in (self._pending, _Copy(iteration, self._count, self._sums, self._first_bad))
            if copy
        ]
        self._sums = torch.zeros_like(self._sums)
        self._count = 0
        self._pending = None if is_last or self._device.type == "cpu" else copies.pop()
        return [self._read(copy) for copy in copies]

    def check(self) -> int:
        """The present alarm. It waits for the device, so call it only where the loop waits anyway."""
        return self.later_check()()

    def later_check(self) -> Callable[[], int]:
        """`check` as of now, for another thread to wait for."""
        copy = _Copy(0, 1, self._sums, self._first_bad)

        def check() -> int:
            self._read(copy)
            return self.alarm

        return check

    def explain(self, alarm: int) -> str:
        """The error message for the alarm of any rank."""
        iteration, term = divmod(_ALARM_LIMIT - alarm, _MAX_TERMS)
        return (
            f"{self._terms[term]} became NaN or infinite at iteration {iteration}; lower optimizer.lr or "
            "optimizer.clip_norm, raise schedule.warmup_iterations, or look at `kubedet check-data`"
        )

    def _read(self, copy: _Copy) -> IntervalLosses:
        sums, first_bad = copy.wait()
        bad = [(iteration, term) for term, iteration in enumerate(first_bad) if iteration]
        if bad:
            iteration, term = min(bad)
            self.alarm = _ALARM_LIMIT - (iteration * _MAX_TERMS + term)
        means = {name: value / max(1, copy.count) for name, value in zip(self._terms, sums, strict=True)}
        return IntervalLosses(iteration=copy.iteration, means=means)


class _Copy:
    """Values on their way from the device to the host."""

    def __init__(self, iteration: int, count: int, sums: Tensor, first_bad: Tensor) -> None:
        self.iteration = iteration
        self.count = count
        self._sums = _start_copy(sums)
        self._first_bad = _start_copy(first_bad)
        self._event = _new_event() if sums.is_cuda else None
        if self._event is not None:
            self._event.record()

    def wait(self) -> tuple[list[float], list[int]]:
        """Wait for the values and return them."""
        if self._event is not None:
            self._event.synchronize()
        return self._sums.tolist(), self._first_bad.tolist()


def _new_event(*, timed: bool = False) -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=timed)  # type: ignore[no-untyped-call]


def _start_copy(value: Tensor) -> Tensor:
    if not value.is_cuda:
        return value.clone()
    return torch.empty_like(value, device="cpu", pin_memory=True).copy_(value, non_blocking=True)


@dataclass(frozen=True, kw_only=True)
class Lap:
    """Wall time of one iteration, or the mean of several."""

    seconds: float
    """From the end of the iteration before to the end of this one (`docs/zoo.md`, 10)."""
    wait_seconds: float
    """The part of `seconds` that was spent waiting for data."""


class StepTimer:
    """Times iterations, and the waits for data within them."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._wait = 0.0
        self._laps: list[Lap] = []

    def resume(self) -> None:
        """Start the present iteration now. Call it after other work, such as an evaluation."""
        self._last = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the block as a wait for data."""
        started = time.perf_counter()
        yield
        self._wait += time.perf_counter() - started

    def lap(self) -> Lap:
        """End an iteration and return its times."""
        now = time.perf_counter()
        lap = Lap(seconds=now - self._last, wait_seconds=self._wait)
        self._last, self._wait = now, 0.0
        self._laps.append(lap)
        return lap

    def close_interval(self) -> Lap:
        """The mean of the iterations since the last call."""
        laps, self._laps = self._laps, []
        return Lap(
            seconds=sum(lap.seconds for lap in laps) / max(1, len(laps)),
            wait_seconds=sum(lap.wait_seconds for lap in laps) / max(1, len(laps)),
        )


class ForwardTimer:
    """Times the forward passes of this rank: the part of a step that waits for no other rank.

    On a GPU two events are recorded around each pass. They are read at the end of an interval if the device
    has reached them, and otherwise an interval later.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._pending: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self._seconds: list[float] = []

    @contextmanager
    def forward_pass(self) -> Iterator[None]:
        """Time the block as one forward pass."""
        if not self._is_cuda:
            started = time.perf_counter()
            yield
            self._seconds.append(time.perf_counter() - started)
            return
        events = (_new_event(timed=True), _new_event(timed=True))
        events[0].record()
        yield
        events[1].record()
        self._pending.append(events)

    def close_interval(self) -> float | None:
        """Mean seconds of the passes that ended since the last call, or None if none did."""
        while self._pending and self._pending[0][1].query():  # type: ignore[no-untyped-call]
            start, end = self._pending.popleft()
            self._seconds.append(start.elapsed_time(end) / 1000)
        seconds, self._seconds = self._seconds, []
        return sum(seconds) / len(seconds) if seconds else None
