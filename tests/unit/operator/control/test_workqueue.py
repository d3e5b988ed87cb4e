"""The queue of jobs: every key once, never twice at a time, delayed ones when they are due."""

from __future__ import annotations

import asyncio

import pytest

from frozen_time import Clock
from kubedet_operator.control.workqueue import WorkQueue


@pytest.fixture
def queue() -> WorkQueue[str]:
    return WorkQueue()


async def test_a_key_added_twice_comes_once(queue: WorkQueue[str]) -> None:
    queue.add("a")
    queue.add("a")
    queue.add("b")
    assert [await queue.get(), await queue.get()] == ["a", "b"]
    assert len(queue) == 0


async def test_a_key_added_while_it_is_worked_on_comes_again_afterwards(queue: WorkQueue[str]) -> None:
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    assert len(queue) == 0
    queue.done("a")
    assert await queue.get() == "a"


async def test_delayed_keys_come_when_they_are_due_the_earliest_first(queue: WorkQueue[str]) -> None:
    queue.add_after("late", 0.04)
    queue.add_after("early", 0.01)
    queue.add_after("late", 9.0)
    assert [await queue.get(), await queue.get()] == ["early", "late"]


async def test_an_earlier_time_replaces_a_later_one(queue: WorkQueue[str]) -> None:
    queue.add_after("a", 60)
    queue.add_after("a", 0.01)
    assert await asyncio.wait_for(queue.get(), 5) == "a"


async def test_a_key_that_is_added_at_once_is_not_delayed_as_well(queue: WorkQueue[str]) -> None:
    queue.add_after("a", 0.01)
    queue.add("a")
    assert await queue.get() == "a"
    queue.done("a")
    await asyncio.sleep(0.03)
    assert len(queue) == 0


async def test_retries_wait_twice_as_long_each_time_up_to_a_bound(queue: WorkQueue[str]) -> None:
    delays = [queue.retry("a", longest_seconds=60) for _ in range(12)]
    assert delays[:4] == [0.25, 0.5, 1.0, 2.0]
    assert delays[-1] == 60
    assert queue.retry("a", longest_seconds=10) == 10
    queue.succeed("a")
    assert queue.retry("a", longest_seconds=60) == 0.25


async def test_a_forgotten_key_does_not_come(queue: WorkQueue[str]) -> None:
    queue.add_after("a", 0.01)
    queue.forget("a")
    await asyncio.sleep(0.03)
    assert len(queue) == 0


async def test_another_clock_says_when_delays_are_over() -> None:
    clock = Clock()
    queue: WorkQueue[str] = WorkQueue(clock)
    queue.add_after("day", 86400)
    queue.add_after("hour", 3600)
    clock.turn(3599)
    assert len(queue) == 0
    clock.turn(3600)
    assert await queue.get() == "hour"
    assert clock.due() == 86400
