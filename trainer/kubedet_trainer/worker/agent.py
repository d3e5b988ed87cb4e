"""The elastic agent of a worker: ``python -m kubedet_trainer.worker.agent``, started by `launch`.

It starts the ranks of this worker, starts them again after a failure or when workers come and go, and leaves
an `AgentEnding` that says what it saw. torchrun itself ends with 1 in every case. This agent is made of the
same parts of torch: its rendezvous, its processes, and the loop of `SimpleElasticAgent`. torch documents that
class for extension by the four methods below; ``test_agent_seam.py`` checks them.

The agent differs from torchrun's in two ways: it stops when another start cannot help, and it restarts its
ranks when a worker disappears.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch.distributed as dist
from torch.distributed.elastic.agent.server.api import (
    RunResult,
    SimpleElasticAgent,
    Worker,
    WorkerGroup,
    WorkerSpec,
    WorkerState,
)
from torch.distributed.elastic.multiprocessing import (
    DefaultLogsSpecs,
    RunProcsResult,
    SignalException,
    Std,
    SubprocessContext,
    start_processes,
)
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousStateError,
    RendezvousTimeoutError,
)
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler

from kubedet_trainer import contract
from kubedet_trainer.contract import FailureClass, failure_class
from kubedet_trainer.logs import configure_logging
from kubedet_trainer.settings import RunSettings, read_settings
from kubedet_trainer.storage.files import write_json
from kubedet_trainer.worker import endings, peers, processes
from kubedet_trainer.worker.endings import AgentEnding, Outcome, RankEnding

_MAX_RESTARTS = 100
"""Restarts of the group for any cause. `endings.is_worth_a_restart` limits those that this worker causes."""

_KILL_SECONDS = 5
_RESTART_SECONDS = 30
"""How long ranks have to end before a restart. They have nothing to save: the group starts from its newest
checkpoint."""

_SAVE_MARGIN_SECONDS = 15
"""What the launcher and the agent need of the grace period after the ranks have saved their state."""

_LAST_BYTES = 65536
"""What is read of a rank's standard error: stacks of all threads may follow the reason of an abort."""


class _RanksFailed(Exception):
    """Ranks of this worker failed, and another start would not help."""


_OUTCOMES: dict[type[BaseException], Outcome] = {
    _RanksFailed: Outcome.RANK_FAILED,
    SignalException: Outcome.TERMINATED,
    RendezvousConnectionError: Outcome.RENDEZVOUS_LOST,
    RendezvousStateError: Outcome.RENDEZVOUS_LOST,
    dist.DistError: Outcome.RENDEZVOUS_LOST,
    RendezvousTimeoutError: Outcome.RENDEZVOUS_INCOMPLETE,
    RendezvousClosedError: Outcome.RENDEZVOUS_CLOSED,
}

_logger = logging.getLogger(endings.AGENT_MODULE)  # with -m, __name__ is __main__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the ranks of this worker until they are done or cannot continue. Returns 0 or 1."""
    parser = argparse.ArgumentParser(prog="python -m kubedet_trainer.worker.agent")
    parser.add_argument("--module", default=endings.RANK_MODULE, help="Python module to run as a rank")
    module = parser.parse_args(arguments).module
    for number in (signal.SIGTERM, signal.SIGINT):  # torch installs its handlers only when ranks start
        signal.signal(number, _raise_signal)
    processes.end_with_parent()
    configure_logging()
    # It says which process got which signal or code. The agent and the launcher log the cause of an ending.
    logging.getLogger(SubprocessContext.__module__).setLevel(logging.CRITICAL)
    settings = read_settings(os.environ)
    ending = run(settings, module=module)
    write_json(settings.work_directory / endings.ENDING_FILE, asdict(ending))
    return 0 if ending.outcome is Outcome.FINISHED else 1


def run(settings: RunSettings, *, module: str = endings.RANK_MODULE) -> AgentEnding:
    """Start the ranks, restart them while that can help, and say how they ended."""
    agent: _Agent | None = None
    message = ""
    try:
        handler = peers.build_rendezvous(settings)
        agent = _Agent(settings, module=module, handler=handler)
        result = agent.run()
    except tuple(_OUTCOMES) as error:
        outcome = next(value for kind, value in _OUTCOMES.items() if isinstance(error, kind))
        message = next(iter(str(error.__cause__ or error).splitlines()), "")
        if agent is None or not agent.has_permanent_failure():  # which the launcher logs with its cause
            _logger.warning("the agent ends", extra={"outcome": outcome, "error": str(error)})
    else:
        if result is None:  # enough other workers had joined, so torch left this one out
            outcome = Outcome.RENDEZVOUS_CLOSED
        else:
            outcome = Outcome.FINISHED if result.state is WorkerState.SUCCEEDED else Outcome.RANK_FAILED
    if agent is None:
        return AgentEnding(outcome=outcome, message=message)
    if outcome is Outcome.FINISHED or (outcome is Outcome.RANK_FAILED and agent.has_permanent_failure()):
        handler.shutdown()  # closes the rendezvous: a worker that joins now learns that the run is over
    return AgentEnding(outcome=outcome, ranks=agent.rank_endings(), joined=agent.joined, message=message)


class _Agent(SimpleElasticAgent):
    """Starts, watches and stops the ranks of this worker; torch's loop decides when to restart them."""

    def __init__(self, settings: RunSettings, *, module: str, handler: DynamicRendezvousHandler) -> None:
        super().__init__(
            WorkerSpec(
                role="trainer",
                local_world_size=settings.procs_per_replica,
                entrypoint=sys.executable,
                args=("-m", module),
                rdzv_handler=handler,
                max_restarts=_MAX_RESTARTS,
            )
        )
        self.joined = False
        self._roster = peers.Roster(handler)
        self._work_directory = settings.work_directory
        self._save_seconds = max(_KILL_SECONDS, settings.grace_seconds - _SAVE_MARGIN_SECONDS)
        self._logs = DefaultLogsSpecs(
            log_dir=str(settings.work_directory / contract.LOGS_DIRECTORY),
            tee=Std.ALL,
            local_ranks_filter={0},
        )
        self._ranks: SubprocessContext | None = None
        self._restarts = 0
        self._crashes_in_a_row = 0
        self._started = 0.0
        self._failed_at: dict[int, float] = {}

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self.joined = True
        self._started = time.monotonic()
        self._roster.note()
        self._failed_at.clear()
        for record in self._failures().iterdir():  # of an earlier group
            record.unlink()
        if all(worker.global_rank != 0 for worker in worker_group.workers):
            (self._work_directory / contract.PROGRESS_FILE).unlink(missing_ok=True)
        local_ranks = range(len(worker_group.workers))
        ranks = start_processes(
            name=worker_group.spec.role,
            entrypoint=sys.executable,
            args=dict.fromkeys(local_ranks, worker_group.spec.args),
            envs={
                worker.local_rank: self._rank_environment(worker, worker_group)
                for worker in worker_group.workers
            },
            logs_specs=self._logs,
            log_line_prefixes=dict.fromkeys(local_ranks, ""),  # lines of JSON stay lines of JSON
        )
        assert isinstance(ranks, SubprocessContext)  # the entry point is a program, not a function
        self._ranks = ranks
        return ranks.pids()

    def _rank_environment(self, worker: Worker, group: WorkerGroup) -> dict[str, str]:
        """The variables that torchrun documents and the ranks or torch read, on top of the agent's own."""
        return {
            "RANK": str(worker.global_rank),
            "WORLD_SIZE": str(worker.world_size),
            "LOCAL_RANK": str(worker.local_rank),
            "LOCAL_WORLD_SIZE": str(group.spec.local_world_size),
            "GROUP_RANK": str(group.group_rank),
            "MASTER_ADDR": str(group.master_addr),
            "MASTER_PORT": str(group.master_port),
            "TORCHELASTIC_RESTART_COUNT": str(self._restarts),
            "TORCHELASTIC_RUN_ID": group.spec.rdzv_handler.get_run_id(),
        }

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        assert self._ranks is not None  # torch starts the ranks before it watches them
        if (
            self.has_permanent_failure()
        ):  # the failed rank waits for this, and no other rank can save anything now
            self._ranks.close(signal.SIGKILL, _KILL_SECONDS)
        result = self._ranks.wait(0)
        if result is None:
            if not self._roster.has_lost_any():
                return RunResult(state=WorkerState.HEALTHY)
            _logger.warning("a worker has disappeared; the ranks restart without it")
            self._restarts += 1
            return RunResult(state=WorkerState.UNHEALTHY)
        if not result.is_failed():
            done = {worker.global_rank: None for worker in worker_group.workers}
            return RunResult(state=WorkerState.SUCCEEDED, return_values=done)
        self._judge(result, worker_group)
        self._restarts += 1
        return RunResult(state=WorkerState.FAILED)

    def _judge(self, result: RunProcsResult, worker_group: WorkerGroup) -> None:
        """Raise `_RanksFailed` unless another start may help."""
        self._failed_at = {
            worker_group.workers[local_rank].global_rank: float(failure.timestamp)
            for local_rank, failure in result.failures.items()
        }
        codes = [ending.exit_code for ending in self.rank_endings() if ending.rank in self._failed_at]
        self._count_crash(codes)
        hopeful = endings.is_worth_a_restart(codes, crashes_in_a_row=self._crashes_in_a_row)
        if self.has_permanent_failure() or not hopeful:
            raise _RanksFailed(f"the ranks ended with {codes}")
        _logger.warning("the ranks of this worker restart", extra={"exitCodes": codes})

    def _stop_workers(self, worker_group: WorkerGroup) -> None:
        if self._ranks is not None:
            self._ranks.close(signal.SIGTERM, _RESTART_SECONDS)

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int | None = None) -> None:
        # torch's own time-out, which some versions pass, knows nothing of the grace period of the pod.
        if self._ranks is not None:
            self._ranks.close(death_sig, self._save_seconds)

    def _count_crash(self, exit_codes: list[int]) -> None:
        if not any(map(endings.is_crash, exit_codes)):
            return
        if time.monotonic() - self._started > endings.CRASH_MEMORY_SECONDS:
            self._crashes_in_a_row = 0
        self._crashes_in_a_row += 1

    def has_permanent_failure(self) -> bool:
        """Whether a rank of this worker has recorded a failure that no restart of any worker would fix."""
        return any(
            failure_class(record.exitCode) is FailureClass.PERMANENT
            for record in endings.read_failures(self._failures())
        )

    def rank_endings(self) -> list[RankEnding]:
        """How the ranks of the newest group ended. Ranks that still run are left out."""
        if self._ranks is None:
            return []
        ended = []
        for local_rank, handler in self._ranks.subprocess_handlers.items():
            if (code := handler.proc.poll()) is None:
                continue
            rank = self.get_worker_group().workers[local_rank].global_rank
            ended.append(
                endings.rank_ending(
                    rank,
                    exit_code=code,
                    time=self._failed_at.get(rank, time.time()),
                    output=_tail(Path(self._ranks.stderrs[local_rank])),
                )
            )
        return ended

    def _failures(self) -> Path:
        return self._work_directory / contract.FAILURES_DIRECTORY


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LAST_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _raise_signal(number: int, frame: FrameType | None) -> None:
    raise SignalException(f"got {signal.Signals(number).name}", sigval=signal.Signals(number))


if __name__ == "__main__":
    sys.exit(main())
