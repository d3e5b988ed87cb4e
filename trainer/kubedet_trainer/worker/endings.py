"""How a worker ended: one root cause out of what its agent, its ranks and the kernel say.

`launch` collects the evidence, `agent` writes the part that only it can see, this module judges.
The codes and whom they are charged to are the contract's.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from kubedet_trainer.contract import ExitCode, Failure, FailureClass, failure_class
from kubedet_trainer.contract.times import format_unix_time, parse_time
from kubedet_trainer.errors import TrainerError

AGENT_MODULE = "kubedet_trainer.worker.agent"
"""``python -m`` this starts the ranks of one worker."""

RANK_MODULE = "kubedet_trainer"
"""``python -m`` this is one rank."""

ENDING_FILE = "agent.json"
"""In the work directory: the `AgentEnding` of the newest agent."""

RANK_CRASHES_IN_A_ROW = 4
"""So often may ranks of one worker crash soon after their start before the worker gives up its pod."""

_STACK_LINES = 20
"""Of a hung rank's stacks, the innermost frames of the newest threads first, for the termination message."""

CRASH_MEMORY_SECONDS = 600
"""A group that ran this long before it crashed starts the counting anew."""


class Outcome(StrEnum):
    """How the agent ended, seen from its side."""

    FINISHED = "Finished"
    """Every rank of this worker exited with 0."""
    RANK_FAILED = "RankFailed"
    """A rank failed, and starting the group again in this pod would not help (any more)."""
    TERMINATED = "Terminated"
    """The agent was sent SIGTERM and ended its ranks."""
    RENDEZVOUS_LOST = "RendezvousLost"
    """The rendezvous store does not answer (any more)."""
    RENDEZVOUS_INCOMPLETE = "RendezvousIncomplete"
    """The other workers did not come in time."""
    RENDEZVOUS_CLOSED = "RendezvousClosed"
    """Another worker ended the run for everybody."""
    HUNG = "Hung"
    """A rank showed no sign of life for too long, and the launcher killed the agent."""
    CRASHED = "Crashed"
    """The agent left no record: it was killed, or it is broken."""


@dataclass(frozen=True, kw_only=True)
class RankEnding:
    """How one rank of this worker ended."""

    rank: int
    exit_code: int
    """As `subprocess` has it: the number of a signal is negative."""
    time: float
    """UNIX time at which the agent saw it."""
    last_lines: list[str] = field(default_factory=list)
    """The end of its standard error."""


@dataclass(frozen=True, kw_only=True)
class AgentEnding:
    """The record that the agent leaves for the launcher."""

    outcome: Outcome
    ranks: list[RankEnding] = field(default_factory=list)
    joined: bool = False
    """Whether a rendezvous was ever completed."""
    exit_code: int = 0
    """Of the agent's own process; only told for `Outcome.CRASHED`."""
    message: str = ""
    """What torch said, where nothing better is known."""

    def dump(self) -> str:
        """The record as JSON."""
        return json.dumps(asdict(self))


def parse_agent_ending(text: str) -> AgentEnding:
    """The inverse of `AgentEnding.dump`."""
    document: dict[str, Any] = json.loads(text)
    ranks = [RankEnding(**item) for item in document.pop("ranks")]
    return AgentEnding(**{**document, "outcome": Outcome(document["outcome"]), "ranks": ranks})


_RENDEZVOUS: dict[Outcome, tuple[ExitCode, str]] = {
    Outcome.RENDEZVOUS_LOST: (
        ExitCode.RENDEZVOUS_LOST,
        "the rendezvous store does not answer; see whether its pod runs and the network lets workers in",
    ),
    Outcome.RENDEZVOUS_INCOMPLETE: (
        ExitCode.RENDEZVOUS_LOST,
        "the other workers did not join the rendezvous in time; see whether all pods of the job run",
    ),
    Outcome.RENDEZVOUS_CLOSED: (
        ExitCode.PEER_FAILED,
        "another worker has ended the run for all; its own record says why",
    ),
}

_SIGNAL_HINTS: dict[int, str] = {
    signal.SIGKILL: "killed from outside",
    signal.SIGSEGV: "crashed in native code (segmentation fault)",
    signal.SIGABRT: "aborted in native code",
    signal.SIGBUS: "lost a memory mapping: /dev/shm is most likely too small, raise spec.worker.sharedMemory",
    signal.SIGTERM: "ended before it could take the signal",
}

_OUT_OF_MEMORY = (
    "killed by the kernel at the container's memory limit; "
    "raise spec.worker.resources.limits.memory or lower data.num_workers"
)

_STOPPED = {ExitCode.TERMINATED_SAVED, ExitCode.TERMINATED_UNSAVED, 128 + signal.SIGTERM}
_NOTHING_LOST = {ExitCode.DONE, ExitCode.TERMINATED_SAVED, -signal.SIGTERM}


def translate(
    ending: AgentEnding,
    *,
    records: Sequence[Failure] = (),
    stop_requested: bool = False,
    memory_limit_hit: bool = False,
) -> Failure | None:
    """The root cause of a worker's ending, or None where it did all its work.

    Args:
        ending: what the agent says.
        records: what the ranks said before they ended.
        stop_requested: whether the launcher was sent SIGTERM (or SIGINT).
        memory_limit_hit: whether the kernel killed for lack of memory in this container.
    """
    permanent = [record for record in records if failure_class(record.exitCode) is FailureClass.PERMANENT]
    if (cause := root_cause(permanent)) is not None:
        return cause
    if ending.outcome is Outcome.FINISHED:
        return None
    if stop_requested or ending.outcome is Outcome.TERMINATED:
        return _stopped(ending)
    if ending.outcome in _RENDEZVOUS:
        code, message = _RENDEZVOUS[ending.outcome]
        return _failure(code, _joined(message, ending.message))
    if ending.outcome is Outcome.HUNG:
        return _hang(ending)
    by_rank = {record.rank: record for record in records}
    failures = [by_rank.get(rank.rank) or _rank_failure(rank, memory_limit_hit) for rank in ending.ranks]
    return root_cause(failures) or _crash(ending, memory_limit_hit)


def root_cause(failures: Iterable[Failure]) -> Failure | None:
    """The earliest failure; who was told to stop, or only lost a peer, counts where nobody else failed."""

    def order(failure: Failure) -> tuple[int, datetime]:
        blame = 0
        if failure.exitCode in _STOPPED:
            blame = 2
        elif failure_class(failure.exitCode) is FailureClass.PEER:
            blame = 1
        return blame, parse_time(failure.time) if failure.time else datetime.max.replace(tzinfo=UTC)

    return min(failures, key=order, default=None)


def read_failures(directory: Path) -> list[Failure]:
    """The records that ranks have left below `directory`; one that is still being written is skipped."""
    records = []
    for path in sorted(directory.glob("*.json")):
        try:
            records.append(Failure(**json.loads(path.read_text())))
        except (OSError, ValueError, TypeError):
            continue
    return records


def failure_of(error: BaseException, *, last_lines: Sequence[str] = ()) -> Failure:
    """The failure that an exception means; what is no `TrainerError` is unexpected."""
    code = error.exit_code if isinstance(error, TrainerError) else ExitCode.UNEXPECTED
    kind = type(error).__name__
    return _failure(code, str(error) or kind, reason=kind, last_lines=last_lines)


def is_worth_a_restart(exit_codes: Iterable[int], *, crashes_in_a_row: int) -> bool:
    """Whether the agent should start its group again, by how its ranks ended and how often they crashed.

    A permanent code would only fail again; broken GPU hardware needs another node; whatever else is tried
    again in the same pod first, `RANK_CRASHES_IN_A_ROW` times at most.
    """
    hopeless = any(0 < code < 128 or code == ExitCode.GPU_HARDWARE for code in exit_codes)
    return not hopeless and crashes_in_a_row < RANK_CRASHES_IN_A_ROW


def is_crash(exit_code: int) -> bool:
    """Whether a rank failed by itself, and not because it was told to or because a peer went away."""
    return exit_code not in _NOTHING_LOST | {ExitCode.TERMINATED_UNSAVED, ExitCode.PEER_FAILED}


def reason_of(code: int) -> str:
    """An exit code as one CamelCase word: `RendezvousLost`."""
    try:
        return "".join(word.capitalize() for word in ExitCode(code).name.split("_"))
    except ValueError:
        return "Exited"


def _failure(
    code: int,
    message: str,
    *,
    reason: str | None = None,
    rank: RankEnding | None = None,
    last_lines: Sequence[str] = (),
) -> Failure:
    """A failure of `rank`, when it ended, or else of this worker, now; `reason` is that of the exit code."""
    return Failure(
        exitCode=code,
        reason=reason or reason_of(code),
        message=f"rank {rank.rank}: {message}" if rank else message,
        rank=rank.rank if rank else None,
        # Milliseconds, so that the failures of several ranks can be ordered.
        time=format_unix_time(rank.time if rank else time.time(), timespec="milliseconds"),
        lastLines=list(last_lines),
    )


def _rank_failure(ending: RankEnding, memory_limit_hit: bool) -> Failure:
    code, reason, message = _describe(ending.exit_code, memory_limit_hit)
    return _failure(code, message, reason=reason, rank=ending, last_lines=ending.last_lines)


def _describe(exit_code: int, memory_limit_hit: bool) -> tuple[int, str, str]:
    """Exit code of the contract, reason and message of a process that left no record of its own."""
    if exit_code >= 0:
        return exit_code, reason_of(exit_code), f"exited with code {exit_code} and left no record"
    number = -exit_code
    if number == signal.SIGKILL and memory_limit_hit:
        return 128 + number, "OOMKilled", _OUT_OF_MEMORY
    name = signal.Signals(number).name if number in set(signal.Signals) else f"Signal{number}"
    return 128 + number, name, _SIGNAL_HINTS.get(number, "ended by the signal")


def _hang(ending: AgentEnding) -> Failure:
    [rank] = ending.ranks
    message = f"{ending.message}; the stacks of its threads are in the worker's log"
    return _failure(rank.exit_code, message, rank=rank, last_lines=rank.last_lines[:_STACK_LINES])


def _stopped(ending: AgentEnding) -> Failure:
    lost = [rank for rank in ending.ranks if rank.exit_code not in _NOTHING_LOST]
    if ending.outcome is Outcome.CRASHED and ending.exit_code != -signal.SIGTERM:
        return _unsaved("the agent was ended before it could tell whether the state was saved")
    if lost:
        code, reason, _ = _describe(lost[0].exit_code, False)
        return _unsaved(f"rank {lost[0].rank} did not save its state in time (code {code}, {reason})")
    return _failure(ExitCode.TERMINATED_SAVED, "stopped as asked; the state is saved")


def _unsaved(why: str) -> Failure:
    message = f"stopped as asked; {why}; the run resumes from the previous checkpoint"
    return _failure(ExitCode.TERMINATED_UNSAVED, message)


def _crash(ending: AgentEnding, memory_limit_hit: bool) -> Failure:
    code, reason, message = _describe(ending.exit_code or ExitCode.UNEXPECTED, memory_limit_hit)
    return _failure(code, _joined(f"torchrun: {message}", ending.message), reason=reason)


def _joined(message: str, detail: str) -> str:
    return f"{message} ({detail})" if detail else message
