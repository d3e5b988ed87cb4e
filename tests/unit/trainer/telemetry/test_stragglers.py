"""A rank is a straggler once it has been slow for a hundred steps, and for as long as it stays slow."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from kubedet_trainer.contract import Straggler
from kubedet_trainer.telemetry.stragglers import RATIO, STEPS, StragglerWatch, encode

INTERVAL = 50
USUAL = 100_000
SLOW = 180_000
SINCE = "2001-09-09T01:46:40Z"


class Clock:
    now = 1e9

    def __call__(self) -> float:
        return self.now


class Run:
    """Log intervals of a run of two ranks in each worker."""

    def __init__(self, *, world_size: int = 8, iteration: int = 0) -> None:
        self.clock = Clock()
        self.iteration = iteration
        replicas = [rank // 2 for rank in range(world_size)]
        self.watch = StragglerWatch(iteration=iteration, replicas=replicas, clock=self.clock)

    def log(self, *times: int, steps: int = INTERVAL) -> Straggler | None:
        self.iteration += steps
        self.clock.now += steps
        return self.watch.judge(times, iteration=self.iteration)


def _times(*slow: int, world_size: int = 8) -> list[int]:
    return [SLOW if rank in slow else USUAL for rank in range(world_size)]


def test_a_slow_rank_is_named_with_its_worker_once_it_has_been_slow_for_long_enough() -> None:
    run = Run()
    assert run.log(*_times(5)) is None
    assert run.log(*_times(5)) == Straggler(rank=5, replica=2, ratio=1.8, since=SINCE)


def test_it_is_named_no_longer_after_one_interval_in_which_it_is_fast() -> None:
    run = Run()
    run.log(*_times(5))
    assert run.log(*_times(5)) is not None
    assert run.log(*_times()) is None
    assert run.log(*_times(5)) is None


def test_a_pause_of_one_interval_makes_no_straggler_however_long_it_is() -> None:
    run = Run()
    assert run.log(*_times()[:7], 50 * USUAL) is None
    for _ in range(3):
        assert run.log(*_times()) is None


def test_slowness_of_different_ranks_does_not_add_up() -> None:
    run = Run()
    assert [run.log(*_times(rank)) for rank in (0, 1, 2, 3)] == [None] * 4


def test_of_several_slow_ranks_of_one_worker_the_slowest_is_named_whichever_it_is_now() -> None:
    run = Run()
    found = []
    for times in ((6, 7, 6), (6, 7, 7), (6, 7, 6)):
        *slow, slowest = times
        values = _times(*slow)
        values[slowest] += 20_000
        found.append(run.log(*values))
    assert found[0] is None
    assert [(item.rank, item.replica, item.since) for item in found if item] == [(7, 3, SINCE), (6, 3, SINCE)]


def test_steps_count_not_intervals() -> None:
    run = Run()
    found = [run.log(*_times(1), steps=5) for _ in range(STEPS // 5)]
    assert found[:-1] == [None] * (STEPS // 5 - 1)
    assert found[-1] is not None


def test_a_run_that_resumes_counts_from_where_it_begins() -> None:
    run = Run(iteration=5030)
    assert run.log(*_times(1), steps=20) is None
    assert run.log(*_times(1)) is None
    assert run.log(*_times(1)) is not None


@pytest.mark.parametrize(
    ("times", "rank"),
    [
        ([USUAL], None),
        ([USUAL, 2 * USUAL], None),
        ([USUAL, 3 * USUAL], 1),
        ([USUAL, USUAL, round(RATIO * USUAL)], 2),
        ([USUAL, USUAL, round(RATIO * USUAL) - 1000], None),
        ([USUAL, USUAL, SLOW, SLOW], None),
        ([USUAL, USUAL, USUAL, SLOW, SLOW], 3),
    ],
    ids=[
        "alone",
        "twice the other",
        "thrice the other",
        "at the limit",
        "below it",
        "half",
        "fewer than half",
    ],
)
def test_the_median_decides(times: Sequence[int], rank: int | None) -> None:
    run = Run(world_size=len(times))
    run.log(*times)
    found = run.log(*times)
    assert (found.rank if found else None) == rank


def test_a_rank_whose_time_is_not_known_is_left_out() -> None:
    run = Run(world_size=4)
    run.log(0, USUAL, USUAL, SLOW)
    found = run.log(0, USUAL, USUAL, SLOW)
    assert found is not None
    assert (found.rank, found.ratio) == (3, 1.8)
    assert run.log(0, 0, 0, 0) is None


def test_times_travel_as_numbers_whose_maximum_over_the_ranks_has_all() -> None:
    told = [encode(seconds, rank=rank, world_size=3) for rank, seconds in enumerate((0.25, None, 1e9))]
    assert told == [[250_000, 0, 0], [0, 0, 0], [0, 0, 2**31 - 1]]
    assert [max(values) for values in zip(*told, strict=True)] == [250_000, 0, 2**31 - 1]
