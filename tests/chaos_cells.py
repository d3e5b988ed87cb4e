"""The chaos matrix as data: what is hit, how, in which phase of a training, and what that costs the job."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple

TARGETS = ("rank", "PID 1", "worker pod", "rendezvous", "operator leader", "API server", "S3")
MEANS = ("TERM", "KILL", "STOP", "cut")
PHASES = ("start", "train", "evaluate", "save", "end")


class Cell(NamedTuple):
    """One cell of the matrix."""

    target: str
    means: str
    phase: str

    def __str__(self) -> str:
        return f"{self.target} / {self.means} / {self.phase}"


class Budget(NamedTuple):
    """What a fault adds to `status.restarts`: failures of the program, and disruptions."""

    application: int = 0
    infrastructure: int = 0


NOTHING = Budget()
FAILURE = Budget(application=1)
DISRUPTION = Budget(infrastructure=1)
UNSEEN = (DISRUPTION, NOTHING)
"""Of a pod that ends at once when it is deleted: the operator may find it gone, and nothing to charge."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One way to hit one target."""

    does: str
    budgets: tuple[Budget, ...] = (NOTHING,)
    """What it may cost."""
    seconds: float | None = None
    """How long STOP and cut last. None for ever."""
    meetings: int = len(PHASES)
    """How many phases one job can meet it in, before that counts for something else."""
    stands_still: bool = False
    """The training is interrupted, and continues only when all is as before."""
    exceptions: Mapping[str, tuple[Budget, ...]] = field(default_factory=dict)
    """By phase, where it may cost something else."""
    wakes_at_start: float | None = None
    """`seconds` in the phase `start`, if they are others there."""

    def budgets_in(self, phase: str) -> tuple[Budget, ...]:
        """What it may cost in a phase."""
        return self.exceptions.get(phase, self.budgets)

    def seconds_in(self, phase: str) -> float | None:
        """How long it lasts in a phase."""
        return self.wakes_at_start if phase == "start" and self.wakes_at_start else self.seconds


FAULTS: dict[tuple[str, str], Fault] = {
    ("rank", "TERM"): Fault(
        does="rank 0 saves, its agent starts all ranks again in their pods", stands_still=True
    ),
    ("rank", "KILL"): Fault(
        does="the agents start all ranks again in their pods",
        stands_still=True,
        meetings=3,  # at the fourth crash in a row a worker gives up its pod
    ),
    ("rank", "STOP"): Fault(
        does="rank 0 never wakes: after spec.failurePolicy.hangTimeoutSeconds its worker ends with 152",
        budgets=(FAILURE,),
        stands_still=True,
        # Until its first heartbeat nothing is expected of a rank: it may be importing.
        exceptions={"start": (NOTHING,)},
        wakes_at_start=3,
    ),
    ("PID 1", "TERM"): Fault(
        does="the worker saves and ends with 143, and is replaced", budgets=(DISRUPTION,), stands_still=True
    ),
    ("PID 1", "KILL"): Fault(
        does="the container ends with 137, and is replaced", budgets=(FAILURE,), stands_still=True
    ),
    ("PID 1", "STOP"): Fault(does="the ranks train on; nobody answers for progress", seconds=5),
    ("worker pod", "TERM"): Fault(
        does="the pod is deleted with its grace",
        budgets=(DISRUPTION,),
        exceptions={"start": UNSEEN},
        stands_still=True,
    ),
    ("worker pod", "KILL"): Fault(
        does="the pod and all its processes are gone at once, as with its node", stands_still=True
    ),
    ("worker pod", "STOP"): Fault(
        does="all its processes stand still for longer than the rendezvous waits for an agent",
        seconds=14,
        stands_still=True,
    ),
    ("worker pod", "cut"): Fault(
        does="nobody reaches it for longer than the rendezvous waits for an agent",
        seconds=14,
        stands_still=True,
    ),
    ("rendezvous", "TERM"): Fault(
        does="the pod is deleted, ends at once and is replaced",
        budgets=UNSEEN,
    ),
    ("rendezvous", "KILL"): Fault(does="its container starts again in the pod, without any value"),
    ("rendezvous", "STOP"): Fault(does="it answers nobody for a while", seconds=12),
    ("rendezvous", "cut"): Fault(does="nobody reaches it for a while", seconds=12),
    ("operator leader", "TERM"): Fault(does="it gives up its Lease"),
    ("operator leader", "KILL"): Fault(does="the standby takes the Lease when it has run out"),
    ("operator leader", "STOP"): Fault(does="it wakes when another one leads", seconds=12),
    ("operator leader", "cut"): Fault(does="it comes back when another one leads", seconds=12),
    ("API server", "TERM"): Fault(does="it ends in order, and is back some seconds later"),
    ("API server", "KILL"): Fault(does="it is back some seconds later"),
    ("API server", "STOP"): Fault(does="no connection ends and nothing answers", seconds=8),
    ("API server", "cut"): Fault(does="no operator reaches it", seconds=8),
    ("S3", "TERM"): Fault(does="the server is back some seconds later"),
    ("S3", "KILL"): Fault(does="the server is back some seconds later, with all that it had acknowledged"),
    ("S3", "STOP"): Fault(does="no connection ends and nothing answers", seconds=8),
    ("S3", "cut"): Fault(does="nobody reaches it", seconds=8),
}

WITHOUT_SENSE: dict[tuple[str, str], str] = {
    ("rank", "cut"): "a rank has the network of its pod: see worker pod / cut",
    ("PID 1", "cut"): "PID 1 has the network of its pod: see worker pod / cut",
}
"""Cells, in all phases, that are not played, each with the reason."""

KNOWN_FAULTS: dict[Cell, str] = {}
"""Cells that fail today, and why: each must fail."""


class Life(NamedTuple):
    """One job, and the cells that it meets in turn."""

    target: str
    means: str
    phases: tuple[str, ...]

    @property
    def fault(self) -> Fault:
        """What it meets."""
        return FAULTS[self.target, self.means]

    @property
    def cells(self) -> list[Cell]:
        """The cells that it plays."""
        return [Cell(self.target, self.means, phase) for phase in self.phases]


def all_cells() -> list[Cell]:
    """Every cell that is played."""
    return [Cell(target, means, phase) for (target, means), phase in product(FAULTS, PHASES)]


def draw_cells(seed: int, share: float = 0.1) -> list[Cell]:
    """A share of the cells: all of some lives, since a job takes longer to start than to meet a fault."""
    lives = plan(all_cells())
    random.Random(seed).shuffle(lives)
    drawn: list[Cell] = []
    for life in lives:
        if len(drawn) < share * len(all_cells()):
            drawn += life.cells
    return drawn


def plan(cells: Sequence[Cell]) -> list[Life]:
    """The lives that play `cells`: as few as can be for each fault, and one for each cell known to fail."""
    lives: dict[tuple[str, str, int], list[str]] = {}
    met: Counter[tuple[str, str]] = Counter()
    for cell in sorted(cells, key=lambda cell: PHASES.index(cell.phase)):
        pair = (cell.target, cell.means)
        number = -1 - PHASES.index(cell.phase) if cell in KNOWN_FAULTS else met[pair] // FAULTS[pair].meetings
        met[pair] += cell not in KNOWN_FAULTS
        lives.setdefault((*pair, number), []).append(cell.phase)
    return [Life(target, means, tuple(phases)) for (target, means, _), phases in lives.items()]
