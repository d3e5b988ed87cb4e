"""The clockwork of simulations: rounds until nothing changes, and time in which only due rounds happen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
ROUNDS = 40


class Clockwork(ABC):
    """An operator that decides about one object in a world of its own."""

    rounds = ROUNDS
    """The most that anything may take to settle."""

    def __init__(self) -> None:
        self.now = BEGINNING
        self.timer: datetime | None = None
        """When the operator wants to be asked again."""

    @property
    @abstractmethod
    def status(self) -> dict[str, Any]:
        """The status of the object; empty once it is deleted."""

    @abstractmethod
    def snapshot(self) -> str:
        """All of the world, to see whether a round has changed it."""

    @abstractmethod
    def play_round(self, survives: int | None) -> None:
        """Decide and act, of which at most `survives` actions happen, and let the world respond."""

    def set_timer(self, seconds: float | None) -> None:
        """Note when to decide again, as a plan has it."""
        self.timer = None if seconds is None else self.now + timedelta(seconds=seconds)

    def settle(self, cut: Callable[[int], int | None] = lambda _: None) -> None:
        """Play rounds until nothing changes; `cut` may say after how many actions the operator dies."""
        for number in range(self.rounds):
            before = self.snapshot()
            self.play_round(cut(number))
            if self.snapshot() == before and cut(number) is None:
                return
        raise AssertionError(f"does not settle: {self.status}")

    def wait(self, seconds: float) -> None:
        """Let time go by; the operator looks only when it wanted to."""
        end = self.now + timedelta(seconds=seconds)
        while self.timer is not None and self.timer <= end:
            self.now = max(self.now, self.timer)
            self.settle()
            if self.timer is not None and self.timer <= self.now:
                raise AssertionError("wants to be asked again at once, for ever")
        self.now = end
