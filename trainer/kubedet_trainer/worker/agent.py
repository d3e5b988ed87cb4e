"""The elastic agent of a worker: ``python -m kubedet_trainer.worker.agent``, started by `launch`.

It starts the ranks of this worker, starts them again after a failure or when workers come and go, and leaves
an `AgentEnding` that says what it saw. torchrun itself ends with 1 in every case. This agent has torchrun's
loop, that of `SimpleElasticAgent`, which torch documents for extension by the four methods below;
``test_agent_seam.py`` checks them.

The agent differs from torchrun's in three ways: it stops when another start cannot help, it restarts its
ranks as soon as a worker is lost, and its ranks are forked from a warm standby.
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
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.rendezvous import RendezvousClosedError, RendezvousTimeoutError

from kubedet_trainer import contract
from kubedet_trainer.contract import FailureClass, RecoveryPhase, failure_class
from kubedet_trainer.logs import configure_logging
from kubedet_trainer.settings import RunSettings, read_settings
from kubedet_trainer.storage.files import write_json
from kubedet_trainer.telemetry.recovery import AgentTimes
from kubedet_trainer.worker import endings, peers, processes, warm
from kubedet_trainer.worker.endings import AgentEnding, Outcome, RankEnding
from kubedet_trainer.worker.peers import Rendezvous
from kubedet_trainer.worker.ranks import Ranks

_MAX_RESTARTS = 100
"""Restarts of the group for any cause. `endings.is_worth_a_restart` limits those that this worker causes."""

_KILL_SECONDS = 5
_RESTART_SECONDS = 30
"""How long ranks have to end before a restart that nothing has gone wrong for: they save their state."""

_LOSS_SECONDS = 8
"""How long a save that is under way may take after the loss of a rank, before all ranks restart."""

_SAVE_MARGIN_SECONDS = 15
"""What the launcher and the agent need of the grace period after the ranks have saved their state."""

_POLL_SECONDS = 0.05

_LAST_BYTES = 65536
"""What is read of a rank's standard error: stacks of all threads may follow the reason of an abort."""


class _RanksFailed(Exception):
    """Ranks of this worker failed, and another start would not help."""


_OUTCOMES: dict[type[BaseException], Outcome] = {
    _RanksFailed: Outcome.RANK_FAILED,
    SignalException: Outcome.TERMINATED,
    dist.DistError: Outcome.RENDEZVOUS_LOST,
    RendezvousTimeoutError: Outcome.RENDEZVOUS_INCOMPLETE,
    RendezvousClosedError: Outcome.RENDEZVOUS_CLOSED,
}

_logger = logging.getLogger(endings.AGENT_MODULE)  # with -m, __name__ is __main__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the ranks of this worker until they are done or cannot continue. Returns 0 or 1."""
    parser = argparse.ArgumentParser(prog="python -m kubedet_trainer.worker.agent")
    parser.add_argument("--module", default=endings.RANK_MODULE, help="Python module to run as a rank")
    parser.add_argument("--restarts", type=int, default=0, help="how often ranks were started before")
    parser.add_argument(
        "--noticed", type=float, help="steady time at which the loss of an agent before was noticed"
    )
    options = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):  # torch installs its handlers only when ranks start
        signal.signal(number, _raise_signal)
    if warm.inherited is None:  # a standby does that for what it forked
        processes.end_with_parent()
    configure_logging()
    settings = read_settings(os.environ)
    ending = run(settings, module=options.module, restarts=options.restarts, noticed=options.noticed)
    write_json(settings.work_directory / endings.ENDING_FILE, asdict(ending))
    return 0 if ending.outcome is Outcome.FINISHED else 1


def run(
    settings: RunSettings,
    *,
    module: str = endings.RANK_MODULE,
    restarts: int = 0,
    noticed: float | None = None,
) -> AgentEnding:
    """Start the ranks, restart them while that can help, and say how they ended."""
    agent: _Agent | None = None
    message = ""
    try:
        handler = peers.build_rendezvous(settings)
        agent = _Agent(settings, module=module, handler=handler, restarts=restarts, noticed=noticed)
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

    def __init__(
        self, settings: RunSettings, *, module: str, handler: Rendezvous, restarts: int, noticed: float | None
    ) -> None:
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
        self._module = module
        self._peers = handler
        self._work_directory = settings.work_directory
        self._save_seconds = max(_KILL_SECONDS, settings.grace_seconds - _SAVE_MARGIN_SECONDS)
        self._ranks: Ranks | None = None
        self._restarts = restarts
        self._crashes_in_a_row = 0
        self._started = 0.0
        self._has_lost = False
        self._times = AgentTimes(settings.work_directory)
        if noticed is not None:
            self._times.note(RecoveryPhase.NOTICE, at=noticed)
            self._times.note(RecoveryPhase.STOP, at=noticed)

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self.joined = True
        self._started = time.monotonic()
        self._has_lost = False
        self._times.note(RecoveryPhase.RENDEZVOUS)
        self._times.write()
        for record in self._failures().iterdir():  # of an earlier group
            record.unlink()
        (self._work_directory / contract.SAVING_FILE).unlink(missing_ok=True)
        if all(worker.global_rank != 0 for worker in worker_group.workers):
            (self._work_directory / contract.PROGRESS_FILE).unlink(missing_ok=True)
        self._ranks = Ranks(
            self._module,
            [self._rank_environment(worker, worker_group) for worker in worker_group.workers],
            logs=self._work_directory / contract.LOGS_DIRECTORY,
            using=warm.inherited,
        )
        return dict.fromkeys(range(len(worker_group.workers)))

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
        codes = self._ranks.poll()
        if any(codes):
            self._note_loss()
            self._peers.report_loss()
            self._judge([code for code in codes if code])
            self._restarts += 1
            return RunResult(state=WorkerState.FAILED)
        if None not in codes:
            done = {worker.global_rank: None for worker in worker_group.workers}
            return RunResult(state=WorkerState.SUCCEEDED, return_values=done)
        if not self._peers.has_lost_any():
            return RunResult(state=WorkerState.HEALTHY)
        _logger.warning("a rank of another worker is lost; the ranks restart")
        self._note_loss()
        self._restarts += 1
        return RunResult(state=WorkerState.UNHEALTHY)

    def _note_loss(self) -> None:
        self._has_lost = True
        self._times.note(RecoveryPhase.NOTICE)

    def _judge(self, exit_codes: list[int]) -> None:
        """Raise `_RanksFailed` unless another start may help."""
        self._count_crash(exit_codes)
        hopeful = endings.is_worth_a_restart(exit_codes, crashes_in_a_row=self._crashes_in_a_row)
        if self.has_permanent_failure() or not hopeful:
            raise _RanksFailed(f"the ranks ended with {exit_codes}")
        _logger.warning("the ranks of this worker restart", extra={"exitCodes": exit_codes})

    def _stop_workers(self, worker_group: WorkerGroup) -> None:
        self._end_ranks(signal.SIGTERM, _RESTART_SECONDS)

    def _end_ranks(self, number: signal.Signals, seconds: float) -> None:
        """End the ranks by a signal, on which they save their state, unless they have lost another one.

        Then they have nothing to save, and may wait for the lost one in vain.
        """
        if self._ranks is None:
            return
        if not self._has_lost:
            self._ranks.close(number, seconds)
            return
        deadline = time.monotonic() + _LOSS_SECONDS
        while self._is_saving() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        self._ranks.close(signal.SIGKILL, _KILL_SECONDS)
        self._times.note(RecoveryPhase.STOP)

    def _is_saving(self) -> bool:
        """Whether a rank of this worker that still runs is writing a checkpoint."""
        assert self._ranks is not None
        return (self._work_directory / contract.SAVING_FILE).exists() and None in self._ranks.poll()

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int | None = None) -> None:
        # torch's own time-out, which some versions pass, knows nothing of the grace period of the pod.
        self._end_ranks(death_sig, self._save_seconds)

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
        """How the ranks of the newest group ended, without those that still run or that the agent killed."""
        if self._ranks is None:
            return []
        workers = self.get_worker_group().workers
        return [
            endings.rank_ending(
                workers[index].global_rank,
                exit_code=code,
                time=self._ranks.ended_at(index),
                output=self._ranks.last_output(index, num_bytes=_LAST_BYTES),
            )
            for index, code in self._ranks.own_endings()
        ]

    def _failures(self) -> Path:
        return self._work_directory / contract.FAILURES_DIRECTORY


def _raise_signal(number: int, frame: FrameType | None) -> None:
    raise SignalException(f"got {signal.Signals(number).name}", sigval=signal.Signals(number))


if __name__ == "__main__":
    sys.exit(main())
