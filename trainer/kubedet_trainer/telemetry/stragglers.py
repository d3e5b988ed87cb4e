"""Finds the rank that all others wait for: its forward passes take far longer than those of the median rank.

A forward pass is the part of a step that waits for no other rank. Afterwards gradients are exchanged, so that
every rank takes as long as the slowest one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

from kubedet_trainer.contract import Straggler
from kubedet_trainer.contract.times import format_unix_time

RATIO = 1.5
"""A rank is slow if its forward passes take so many times as long as those of the median rank. The median of
two ranks is their mean: one of them is slow if it takes three times as long as the other."""

STEPS = 100
"""A rank that has been slow for so many steps is a straggler. A pause of the machine makes none."""

_MOST_MICROSECONDS = 2**31 - 1
"""An agreement of the ranks holds no larger numbers."""


def encode(seconds: float | None, *, rank: int, world_size: int) -> list[int]:
    """The forward time of one rank for a maximum over the ranks, which then has those of all.

    Args:
        seconds: of a mean forward pass; None if none has ended.
        rank: whose time it is.
        world_size: how many numbers there are.

    Returns:
        Microseconds in the place of `rank`, 0 in all others.
    """
    times = [0] * world_size
    times[rank] = min(round((seconds or 0.0) * 1e6), _MOST_MICROSECONDS)
    return times


class StragglerWatch:
    """Compares the forward times of all ranks, one log interval after the other."""

    def __init__(
        self, *, iteration: int, replicas: Sequence[int], clock: Callable[[], float] = time.time
    ) -> None:
        """Begin at `iteration`.

        Args:
            iteration: how many are done.
            replicas: the index of each rank's worker, in rank order.
            clock: UNIX time.
        """
        self._replicas = replicas
        self._clock = clock
        self._judged = (iteration, clock())
        self._slow: dict[int, tuple[int, float]] = {}
        """The iteration and the UNIX time from which each slow rank has been slow."""

    def judge(self, times: Sequence[int], *, iteration: int) -> Straggler | None:
        """The slowest of the stragglers after another log interval, or None if there is none.

        Args:
            times: the mean forward time of each rank, as `encode` has it; 0 where it is not known.
            iteration: how many are done.
        """
        known = [value for value in times if value]
        median = statistics.median(known) if known else 0.0
        ratios = {rank: value / median for rank, value in enumerate(times) if value}
        slow = [rank for rank, ratio in ratios.items() if ratio >= RATIO]
        self._slow = {rank: self._slow.get(rank, self._judged) for rank in slow}
        self._judged = (iteration, self._clock())
        stragglers = [rank for rank in slow if iteration - self._slow[rank][0] >= STEPS]
        if not stragglers:
            return None
        slowest = max(stragglers, key=ratios.__getitem__)
        return Straggler(
            rank=slowest,
            replica=self._replicas[slowest],
            ratio=round(ratios[slowest], 2),
            since=format_unix_time(self._slow[slowest][1]),
        )
