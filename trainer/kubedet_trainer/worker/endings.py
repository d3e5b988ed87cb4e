"""How a worker ended: the one root cause in what its agent, its ranks and the kernel say.

`launch` collects the evidence, `agent` writes down what only it can see, and this module judges. The contract
defines the exit codes and the class of each failure.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from kubedet_trainer.contract import ExitCode, Failure, FailureClass, failure_class
from kubedet_trainer.contract.times import format_unix_time, parse_time
from kubedet_trainer.errors import TrainerError, native

AGENT_MODULE = "kubedet_trainer.worker.agent"
"""The module that ``python -m`` runs to start the ranks of one worker."""

FITTING_MODULE = "kubedet_trainer.worker.fitting"
"""The module that ``python -m`` runs to compare a training with the memory of the GPUs."""

PREPARATION_MODULE = "kubedet_trainer.worker.preparation"
"""The module that ``python -m`` runs to make the data of one worker local."""

RANK_MODULE = "kubedet_trainer"
"""The module that ``python -m`` runs as one rank."""

ENDING_FILE = "agent.json"
"""Holds the `AgentEnding` of the newest agent, in the work directory."""

FITTING_FILE = "fitting.json"
"""Holds the `Failure` of that, next to the records of the ranks."""

PREPARATION_FILE = "preparation.json"
"""Holds the `Failure` of the preparation, next to the records of the ranks."""

RANK_CRASHES_IN_A_ROW = 4
"""After so many crashes soon after a start, the worker gives up its pod."""

_LAST_LINES = 20
"""How many lines of a rank's standard error are kept."""

_STACK_LINES = 20
"""How many lines of a hung rank's stacks the termination message has. Innermost frames come first."""

CRASH_MEMORY_SECONDS = 600
"""After a group has run for so long, its next crash counts as the first one."""


class Outcome(StrEnum):
    """How the agent ended, as the agent sees it."""

    FINISHED = "Finished"
    """Every rank of this worker exited with 0."""
    RANK_FAILED = "RankFailed"
    """A rank failed, and another start in this pod would not help."""
    TERMINATED = "Terminated"
    """The agent received SIGTERM and ended its ranks."""
    RENDEZVOUS_LOST = "RendezvousLost"
    """The rendezvous store does not answer."""
    RENDEZVOUS_INCOMPLETE = "RendezvousIncomplete"
    """The other workers did not join in time."""
    RENDEZVOUS_CLOSED = "RendezvousClosed"
    """Another worker ended the run for all workers."""
    HUNG = "Hung"
    """A rank made no progress for too long, and the launcher killed the agent."""
    CRASHED = "Crashed"
    """The agent left no record: something killed it, or it is broken."""


@dataclass(frozen=True, kw_only=True)
class RankEnding:
    """How one rank of this worker ended."""

    rank: int
    exit_code: int
    """As in `subprocess`: negative for a signal."""
    time: float
    """UNIX time at which the agent noticed it."""
    last_lines: list[str] = field(default_factory=list)
    """The end of its standard error."""
    abort: str = ""
    """Why a library aborted it, where `exit_code` says what that means; empty unless one did."""


@dataclass(frozen=True, kw_only=True)
class AgentEnding:
    """What the agent reports to the launcher at its end."""

    outcome: Outcome
    ranks: list[RankEnding] = field(default_factory=list)
    joined: bool = False
    """Whether this agent has ever completed a rendezvous."""
    exit_code: int = 0
    """The exit code of the agent's process; set only with `Outcome.CRASHED`."""
    message: str = ""
    """torch's message, if nothing more exact is known."""


def rank_ending(rank: int, *, exit_code: int, time: float, output: str) -> RankEnding:
    """How a rank ended, from its exit code and the end of its standard error.

    NCCL's watchdog and its like abort the process themselves, mostly because a peer is gone.
    """
    aborted = native.judge_abort(output) if exit_code == -signal.SIGABRT else None
    return RankEnding(
        rank=rank,
        exit_code=exit_code if aborted is None else aborted[0].exit_code,
        time=time,
        last_lines=output.splitlines()[-_LAST_LINES:] if exit_code else [],
        abort="" if aborted is None else aborted[0].explain(aborted[1]),
    )


def parse_agent_ending(text: str) -> AgentEnding:
    """The ending in `text`, a JSON object of its fields."""
    document: dict[str, Any] = json.loads(text)
    ranks = [RankEnding(**item) for item in document.pop("ranks")]
    return AgentEnding(**{**document, "outcome": Outcome(document["outcome"]), "ranks": ranks})


_RENDEZVOUS: dict[Outcome, tuple[ExitCode, str]] = {
    Outcome.RENDEZVOUS_LOST: (
        ExitCode.RENDEZVOUS_LOST,
        "the rendezvous store does not answer; check that its pod runs and the network admits workers",
    ),
    Outcome.RENDEZVOUS_INCOMPLETE: (
        ExitCode.RENDEZVOUS_LOST,
        "the other workers did not join the rendezvous in time; check that all pods of the job run",
    ),
    Outcome.RENDEZVOUS_CLOSED: (
        ExitCode.PEER_FAILED,
        "another worker has ended the run for all workers; its own failure says why",
    ),
}

_SIGNAL_HINTS: dict[int, str] = {
    signal.SIGKILL: "killed from outside",
    signal.SIGSEGV: "crashed in native code (segmentation fault)",
    signal.SIGABRT: "aborted in native code",
    signal.SIGBUS: "lost a memory mapping; /dev/shm is probably too small: raise spec.worker.sharedMemory",
    signal.SIGTERM: "ended before it could handle the signal",
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
    """The root cause of a worker's ending, or None if it completed its work.

    Args:
        ending: what the agent says.
        records: the failures that ranks recorded before they ended.
        stop_requested: whether the launcher received SIGTERM or SIGINT.
        memory_limit_hit: whether the kernel killed a process of this container at its memory limit.
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
        return _failure(code, _with_detail(message, ending.message))
    if ending.outcome is Outcome.HUNG:
        return _hang(ending)
    by_rank = {record.rank: record for record in records}
    failures = [by_rank.get(rank.rank) or _rank_failure(rank, memory_limit_hit) for rank in ending.ranks]
    if (cause := root_cause(failures)) is not None:
        return cause
    exit_code = ending.exit_code or ExitCode.UNEXPECTED
    return crash("the agent", exit_code, memory_limit_hit=memory_limit_hit, detail=ending.message)


def root_cause(failures: Iterable[Failure]) -> Failure | None:
    """The earliest failure. Ranks that lost a peer or were told to stop count only if no other failed."""

    def order(failure: Failure) -> tuple[int, datetime]:
        blame = 0
        if failure.exitCode in _STOPPED:
            blame = 2
        elif failure_class(failure.exitCode) is FailureClass.PEER:
            blame = 1
        return blame, parse_time(failure.time) if failure.time else datetime.max.replace(tzinfo=UTC)

    return min(failures, key=order, default=None)


def read_failures(directory: Path) -> list[Failure]:
    """The failures recorded in `directory`, without those that are still being written."""
    records = []
    for path in sorted(directory.glob("*.json")):
        try:
            records.append(Failure(**json.loads(path.read_text())))
        except (OSError, ValueError, TypeError):
            continue
    return records


def failure_of(error: BaseException, *, last_lines: Sequence[str] = ()) -> Failure:
    """The failure for an exception. Anything but a `TrainerError` is unexpected."""
    code = error.exit_code if isinstance(error, TrainerError) else ExitCode.UNEXPECTED
    kind = type(error).__name__
    return _failure(code, str(error) or kind, reason=kind, last_lines=last_lines)


def crash(program: str, exit_code: int, *, memory_limit_hit: bool, detail: str = "") -> Failure:
    """The failure of a program of this worker that left no record."""
    code, reason, message = _describe(exit_code, memory_limit_hit)
    return _failure(code, _with_detail(f"{program}: {message}", detail), reason=reason)


def hang(program: str, seconds: float) -> Failure:
    """The failure of a program of this worker that did not end within so many `seconds`."""
    return _failure(
        ExitCode.HANG,
        f"{program}: has not ended after {seconds:g} s, must within spec.failurePolicy.hangTimeoutSeconds; "
        "the GPU or its driver does not answer",
    )


def is_worth_a_restart(exit_codes: Iterable[int], *, crashes_in_a_row: int) -> bool:
    """Whether the agent should restart its ranks, given how they ended and how often they crashed.

    A permanent failure would only come back, and broken GPU hardware needs another node. After anything else
    the ranks start again in the same pod, until they have crashed `RANK_CRASHES_IN_A_ROW` times.
    """
    hopeless = any(0 < code < 128 or code == ExitCode.GPU_HARDWARE for code in exit_codes)
    return not hopeless and crashes_in_a_row < RANK_CRASHES_IN_A_ROW


def is_crash(exit_code: int) -> bool:
    """Whether a rank failed by itself, and not because it was told to stop or lost a peer."""
    return exit_code not in _NOTHING_LOST | {ExitCode.TERMINATED_UNSAVED, ExitCode.PEER_FAILED}


def reason_of(code: int) -> str:
    """The reason for an exit code in CamelCase, such as `RendezvousLost`."""
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
    """A failure of `rank` when it ended, or of this worker now. The exit code gives a default `reason`."""
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
    message = ending.abort or message
    return _failure(code, message, reason=reason, rank=ending, last_lines=ending.last_lines)


def _describe(exit_code: int, memory_limit_hit: bool) -> tuple[int, str, str]:
    """Exit code, reason and message for a process that left no record."""
    if exit_code >= 0:
        return exit_code, reason_of(exit_code), f"exited with code {exit_code} and left no record"
    number = -exit_code
    if number == signal.SIGKILL and memory_limit_hit:
        return 128 + number, "OOMKilled", _OUT_OF_MEMORY
    name = signal.Signals(number).name if number in set(signal.Signals) else f"Signal{number}"
    return 128 + number, name, _SIGNAL_HINTS.get(number, "ended by the signal")


def _hang(ending: AgentEnding) -> Failure:
    [rank] = ending.ranks
    stacks = "; the stacks of its threads are in the worker's log" if rank.last_lines else ""
    return _failure(
        rank.exit_code, f"{ending.message}{stacks}", rank=rank, last_lines=rank.last_lines[:_STACK_LINES]
    )


def _stopped(ending: AgentEnding) -> Failure:
    lost = [rank for rank in ending.ranks if rank.exit_code not in _NOTHING_LOST]
    if ending.outcome is Outcome.CRASHED and ending.exit_code != -signal.SIGTERM:
        return _unsaved("the agent ended before it could say whether the state was saved")
    if lost:
        code, reason, _ = _describe(lost[0].exit_code, False)
        return _unsaved(f"rank {lost[0].rank} did not save its state in time (code {code}, {reason})")
    return _failure(ExitCode.TERMINATED_SAVED, "stopped as asked; the state is saved")


def _unsaved(why: str) -> Failure:
    message = f"stopped as asked; {why}; the run resumes from the previous checkpoint"
    return _failure(ExitCode.TERMINATED_UNSAVED, message)


def _with_detail(message: str, detail: str) -> str:
    return f"{message} ({detail})" if detail else message
