"""How the agents of a run meet in the rendezvous store: who trains in the present round, and who is lost.

An agent is there for as long as its connection is. One whose process ended is known at once, because the
kernel closes its connection; one whose node was cut off, after a silence. The others are told as soon as that
happens, and the next round waits only for agents that are still there. When all of them are silent, it is the
store that is stopped or cut off: nobody is lost, and the agents take their places again. This module needs no
torch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

RETURN_SECONDS = 10.0
"""How long a store that was away waits for the agents of a running round."""

AWAY_SECONDS = 3.0
"""After such a silence of all agents of a running round the store was away: each looks ten times a second."""

_LAST_CALL_AFTER_LOSS_SECONDS = 2.0
"""How long a round that may begin without a lost worker waits for it: its pod may start another agent."""

_LOOK_SECONDS = 0.2
"""How often an agent that waits for a round is checked for being there."""


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """What an agent says when it joins."""

    name: str
    """Unique among all agents that ever join."""
    index: int
    """The worker's; agents without a rank are ordered by it."""
    address: str
    port: int
    """Where its first rank would wait for the others."""
    min_agents: int
    max_agents: int
    last_call_seconds: float
    """How long a round that could begin waits for more agents."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """What an agent gets when a round begins."""

    number: int
    rank: int
    size: int
    address: str
    port: int
    """Where the ranks of this round meet."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What an agent sees of its round."""

    waiting: int = 0
    """Agents that wait for the next round and have a place in it."""
    isLost: bool = False  # noqa: N815
    """Whether a rank or an agent of this round is lost, so that the round is over."""
    isClosed: bool = False  # noqa: N815
    """Whether an agent has ended the run for all."""


class Meeting:
    """The rounds of one run. Every method is atomic; threads of all connections call them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._number = 0
        self._size = 0
        self._max_agents = 0
        self._members: dict[str, int] = {}
        """Ranks of the present round's agents that are there and have not joined again."""
        self._former: dict[str, int] = {}
        """Ranks of the present round's agents."""
        self._indices: dict[str, int] = {}
        """Worker indices of the present round's agents, as far as this store has seen it begin."""
        self._joining: dict[str, Ticket] = {}
        self._begun: dict[str, Round] = {}
        self._may_begin_at: float | None = None
        self._is_broken = False
        self._is_closed = False
        self._return_by: float | None = None
        self._heard_at = 0.0

    def join(self, ticket: dict[str, Any], *, is_there: Callable[[], bool]) -> dict[str, Any] | None:
        """Wait for the next round. Returns it; None if the run is closed or the agent is no longer there."""
        agent = Ticket(**ticket)
        with self._changed:
            self._members.pop(agent.name, None)
            self._joining[agent.name] = agent
            self._max_agents = agent.max_agents
            self._changed.notify_all()
            while not self._is_closed:
                self._begin_if_due()
                if (begun := self._begun.pop(agent.name, None)) is not None:
                    return asdict(begun)
                self._changed.wait(_LOOK_SECONDS)
                if not is_there():
                    self._joining.pop(agent.name, None)
                    return None
            self._joining.pop(agent.name, None)
            return None

    def attach(self, name: str, number: int, rank: int, size: int, max_agents: int) -> None:
        """Take an agent back into its running round, after the store was away and lost its values."""
        with self._changed:
            self._hear()
            if self._number < number:
                self._number, self._size, self._max_agents = number, size, max_agents
                self._members, self._former, self._is_broken = {}, {}, False
                self._return_by = time.monotonic() + RETURN_SECONDS
            if self._number == number:
                self._former[name] = rank
                if name not in self._joining:
                    self._members[name] = rank
            self._changed.notify_all()

    def look(self, name: str) -> dict[str, Any]:
        """What the agent `name` sees of its round."""
        with self._changed:
            self._hear()
            if self._return_by is not None and time.monotonic() > self._return_by:
                self._is_broken |= len(self._members) < self._size
                self._return_by = None
            has_place = self._is_broken or len(self._members) < self._max_agents
            is_lost = self._is_broken or name not in self._members
            waiting = len(self._candidates()) if has_place else 0
            return asdict(View(waiting=waiting, isLost=is_lost, isClosed=self._is_closed))

    def break_up(self, name: str) -> None:
        """End the round of the agent `name`, which has lost a rank, for all."""
        with self._changed:
            self._is_broken |= name in self._members

    def leave(self, name: str) -> None:
        """Take leave of an agent that ends or is lost. Its round is over, unless the store was away."""
        with self._changed:
            self._note_absence()
            was_member = self._members.pop(name, None) is not None
            self._is_broken |= was_member and self._return_by is None
            self._joining.pop(name, None)
            self._begun.pop(name, None)
            self._changed.notify_all()

    def close(self) -> None:
        """End the run for all agents, those that come later included."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _hear(self) -> None:
        """Note that an agent of the round is heard."""
        self._note_absence()
        self._heard_at = time.monotonic()

    def _note_absence(self) -> None:
        """Give the agents time to return if none of the running round was heard for long."""
        now = time.monotonic()
        if self._size and now - self._heard_at > AWAY_SECONDS:
            self._return_by = now + RETURN_SECONDS

    def _begin_if_due(self) -> None:
        """Begin a round once enough agents wait and none of the round before is still to come."""
        agents = self._candidates()
        if not agents or self._members or len(agents) < agents[0].min_agents:
            self._may_begin_at = None
            return
        if self._may_begin_at is None:
            last_call = agents[0].last_call_seconds
            if self._number:  # all that are known to live are here
                last_call = min(last_call, _LAST_CALL_AFTER_LOSS_SECONDS)
            self._may_begin_at = time.monotonic() + last_call
        if len(agents) < agents[0].max_agents and time.monotonic() < self._may_begin_at:
            return
        # Agents of the round before come first: rank 0 stays where its progress and its checkpoint are.
        agents.sort(key=lambda agent: (self._former.get(agent.name, len(self._former)), agent.index))
        chosen = agents[: agents[0].max_agents]
        self._number += 1
        self._size = len(chosen)
        self._former = {agent.name: rank for rank, agent in enumerate(chosen)}
        self._members = dict(self._former)
        self._indices = {agent.name: agent.index for agent in chosen}
        self._may_begin_at = self._return_by = None
        self._heard_at = time.monotonic()
        self._is_broken = False
        for agent in chosen:
            del self._joining[agent.name]
            self._begun[agent.name] = Round(
                number=self._number,
                rank=self._former[agent.name],
                size=self._size,
                address=chosen[0].address,
                port=chosen[0].port,
            )
        self._changed.notify_all()

    def _candidates(self) -> list[Ticket]:
        """Agents that may be in the next round: one for each worker.

        A worker that is replaced while it still ends has two. The one that trains keeps its place.
        """
        present = {self._indices.get(name) for name in self._members}
        order = sorted(self._joining.values(), key=lambda agent: agent.name not in self._former)
        first: dict[int, Ticket] = {}
        for agent in order:
            if agent.index not in present:
                first.setdefault(agent.index, agent)
        return list(first.values())
