"""torchrun with a memory for causes: ``python -m kubedet_trainer.worker.agent``, started by `launch`.

torchrun itself always exits 1, whatever happened. This is the same elastic agent, made of torch's classes,
with three differences: it knows which endings are final, it has no rank wait for a worker that is gone, and
it leaves an `AgentEnding` that says what it saw. Its store is not shared with the process group, and it keeps
alive every second, so that a lost worker is noticed within three.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch.distributed as dist
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.api import SubprocessContext
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousParameters,
    RendezvousStateError,
    RendezvousTimeoutError,
)
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from kubedet_trainer import contract
from kubedet_trainer.contract import FailureClass, failure_class
from kubedet_trainer.logs import configure_logging
from kubedet_trainer.settings import RunSettings, read_settings
from kubedet_trainer.worker import endings, processes
from kubedet_trainer.worker.endings import AgentEnding, Outcome, RankEnding

_MAX_RESTARTS = 100
"""Of the group, for causes elsewhere too; `supervise.is_worth_a_restart` bounds those of this worker."""

_RENDEZVOUS_OPTIONS: dict[str, Any] = {
    "join_timeout": 600,
    "keep_alive_interval": 1,
    "keep_alive_max_attempt": 3,
    "read_timeout": 60,
}

_LAST_CALL_SECONDS = 10
"""An elastic run that could begin waits so long for more workers: one that comes later restarts all ranks."""

_LOST_SECONDS = 10
"""So long may a worker miss among those that keep alive. Ranks notice most losses at once, but not of a peer
whose node was cut off, or that left before they had met."""

_KILL_SECONDS = 5
_RESTART_SECONDS = 30
"""For ranks of a group that starts again: it goes back to its newest checkpoint, there is nothing to save."""

_LAST_LINES = 20
_LAST_BYTES = 8192

_OUTCOMES: dict[type[BaseException], Outcome] = {
    SignalException: Outcome.TERMINATED,
    RendezvousConnectionError: Outcome.RENDEZVOUS_LOST,
    RendezvousStateError: Outcome.RENDEZVOUS_LOST,
    dist.DistError: Outcome.RENDEZVOUS_LOST,
    RendezvousTimeoutError: Outcome.RENDEZVOUS_INCOMPLETE,
    RendezvousClosedError: Outcome.RENDEZVOUS_CLOSED,
}

_logger = logging.getLogger(endings.AGENT_MODULE)  # run with -m, its own name is __main__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the ranks of this worker until they are done or cannot go on; returns 0 or 1."""
    parser = argparse.ArgumentParser(prog="python -m kubedet_trainer.worker.agent")
    parser.add_argument("--module", default=endings.RANK_MODULE, help="Python module to run as a rank")
    module = parser.parse_args(arguments).module
    for number in (signal.SIGTERM, signal.SIGINT):  # torch installs its own only when ranks start
        signal.signal(number, _raise_signal)
    processes.end_with_parent()
    configure_logging()
    settings = read_settings(os.environ)
    ending = run(settings, module=module)
    partial = settings.work_directory / f"{endings.ENDING_FILE}.partial"
    partial.write_text(ending.dump())
    partial.replace(settings.work_directory / endings.ENDING_FILE)
    return 0 if ending.outcome is Outcome.FINISHED else 1


def run(settings: RunSettings, *, module: str = endings.RANK_MODULE) -> AgentEnding:
    """Start the ranks, start them again while that is worth it, and tell how it ended."""
    agent: _Agent | None = None
    try:
        handler = _rendezvous_handler(settings)
        agent = _Agent(settings, module=module, handler=handler)
        result = agent.run()
    except tuple(_OUTCOMES) as error:
        outcome = next(value for kind, value in _OUTCOMES.items() if isinstance(error, kind))
        _logger.warning("the agent ends", extra={"outcome": outcome, "error": str(error)})
        ranks = agent.rank_endings() if agent is not None else []
        joined = agent is not None and agent.joined
        message = str(error.__cause__ or error).splitlines()
        return AgentEnding(outcome=outcome, ranks=ranks, joined=joined, message=message[0] if message else "")
    if result is None:  # torch's way to say that a spare worker was not needed
        return AgentEnding(outcome=Outcome.RENDEZVOUS_CLOSED, joined=agent.joined)
    failed = result.is_failed()
    if not failed or agent.is_final_for_all():
        handler.shutdown()  # closes the rendezvous: whoever joins now learns that nobody else will come
    outcome = Outcome.RANK_FAILED if failed else Outcome.FINISHED
    return AgentEnding(outcome=outcome, ranks=agent.rank_endings(), joined=agent.joined)


class _Agent(LocalElasticAgent):
    """torch's agent, which in addition stops where going on is pointless."""

    def __init__(self, settings: RunSettings, *, module: str, handler: DynamicRendezvousHandler) -> None:
        self.joined = False
        self._roster = _Roster(handler)
        self._work_directory = settings.work_directory
        self._crashes_in_a_row = 0
        self._started = 0.0
        self._failed_at: dict[int, float] = {}
        spec = WorkerSpec(
            role="trainer",
            local_world_size=settings.procs_per_replica,
            entrypoint=sys.executable,
            args=("-m", module),
            rdzv_handler=handler,
            max_restarts=_MAX_RESTARTS,
            local_addr=_local_address(settings),
        )
        super().__init__(
            spec=spec,
            logs_specs=DefaultLogsSpecs(
                log_dir=str(settings.work_directory / contract.LOGS_DIRECTORY),
                tee=Std.ALL,
                local_ranks_filter={0},
            ),
            log_line_prefix_template=" ",  # a line of JSON may start with a blank, not with a word
        )
        # torch's own name for it, which older versions lack: there only `_shutdown` below reads it.
        self._shutdown_timeout = max(_KILL_SECONDS, settings.grace_seconds - 15)

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self.joined = True
        self._started = time.monotonic()
        self._roster.note()
        self._failed_at.clear()
        for record in self._failures().iterdir():  # of a group that is history now
            record.unlink()
        if all(worker.global_rank != 0 for worker in worker_group.workers):
            (self._work_directory / contract.PROGRESS_FILE).unlink(missing_ok=True)
        started: dict[int, Any] = super()._start_workers(worker_group)
        return started

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        if self.is_final_for_all():  # the rank waits for this; nothing that the others still do can be kept
            self._shutdown(signal.SIGKILL, timeout=_KILL_SECONDS)
        result: RunResult = super()._monitor_workers(worker_group)
        if result.is_failed():
            codes = [failure.exitcode for failure in result.failures.values()]
            self._failed_at = {rank: failure.timestamp for rank, failure in result.failures.items()}
            self._count_crash(codes)
            hopeful = endings.is_worth_a_restart(codes, crashes_in_a_row=self._crashes_in_a_row)
            if self.is_final_for_all() or not hopeful:
                self._remaining_restarts = 0
            else:
                _logger.warning("the ranks of this worker start again", extra={"exitCodes": codes})
        elif result.state is WorkerState.HEALTHY and self._roster.has_lost_any():
            _logger.warning("a worker is gone without a word; the ranks start again without it")
            return RunResult(state=WorkerState.UNHEALTHY)
        return result

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int | None = None) -> None:
        if self._pcontext:  # closed here with our time-out, which not every version of torch passes on
            seconds = self._shutdown_timeout if timeout is None else timeout
            self._pcontext.close(death_sig, timeout=seconds)
        super()._shutdown(death_sig)

    def _stop_workers(self, worker_group: WorkerGroup) -> None:
        self._shutdown(timeout=_RESTART_SECONDS)

    def _count_crash(self, exit_codes: list[int]) -> None:
        if not any(map(endings.is_crash, exit_codes)):
            return
        if time.monotonic() - self._started > endings.CRASH_MEMORY_SECONDS:
            self._crashes_in_a_row = 0
        self._crashes_in_a_row += 1

    def is_final_for_all(self) -> bool:
        """Whether a rank here has recorded a failure that no restart of any worker would mend."""
        return any(
            failure_class(record.exitCode) is FailureClass.PERMANENT
            for record in endings.read_failures(self._failures())
        )

    def rank_endings(self) -> list[RankEnding]:
        """How the ranks of the newest group ended, those that did."""
        if not isinstance(self._pcontext, SubprocessContext):  # no rank was ever started
            return []
        ended = []
        for local_rank, handler in self._pcontext.subprocess_handlers.items():
            if (code := handler.proc.poll()) is None:
                continue
            rank = self.get_worker_group().workers[local_rank].global_rank
            ended.append(
                RankEnding(
                    rank=rank,
                    exit_code=code,
                    time=self._failed_at.get(rank, time.time()),
                    last_lines=_last_lines(Path(self._pcontext.stderrs[local_rank])) if code else [],
                )
            )
        return ended

    def _failures(self) -> Path:
        return self._work_directory / contract.FAILURES_DIRECTORY


class _Roster:
    """The workers that met, and whether all of them still keep alive.

    torch drops a silent worker from the state of its rendezvous, but never tells the agents of the others.
    """

    def __init__(self, handler: DynamicRendezvousHandler) -> None:
        self._holder = handler._state_holder
        self._known: frozenset[Any] = frozenset()
        self._missed_since: float | None = None

    def note(self) -> None:
        """Remember who is there: the workers whose ranks start now."""
        self._known = frozenset(self._holder.state.participants)
        self._missed_since = None

    def has_lost_any(self) -> bool:
        """Whether a worker has been missing for too long. The agent itself keeps the state current."""
        state = self._holder.state
        if state.closed or self._known <= state.last_heartbeats.keys():  # closed: they have done their work
            self._missed_since = None
            return False
        if self._missed_since is None:
            self._missed_since = time.monotonic()
        return time.monotonic() - self._missed_since > _LOST_SECONDS


def _rendezvous_handler(settings: RunSettings) -> DynamicRendezvousHandler:
    alone = settings.rendezvous_endpoint is None
    handler = get_rendezvous_handler(
        RendezvousParameters(
            backend="c10d",
            endpoint="localhost:0" if alone else settings.rendezvous_endpoint or "",
            run_id=settings.rendezvous_id,
            min_nodes=settings.min_replicas,
            max_nodes=settings.max_replicas,
            local_addr=_local_address(settings),
            is_host=alone,
            last_call_timeout=_LAST_CALL_SECONDS if settings.min_replicas < settings.max_replicas else 1,
            **_RENDEZVOUS_OPTIONS,
        )
    )
    assert isinstance(handler, DynamicRendezvousHandler)  # it is c10d's
    return handler


def _local_address(settings: RunSettings) -> str | None:
    return "127.0.0.1" if settings.rendezvous_endpoint is None else settings.local_address


def _last_lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LAST_BYTES))
            return file.read().decode(errors="replace").splitlines()[-_LAST_LINES:]
    except OSError:
        return []


def _raise_signal(number: int, frame: FrameType | None) -> None:
    raise SignalException(f"got {signal.Signals(number).name}", sigval=signal.Signals(number))


if __name__ == "__main__":
    sys.exit(main())
