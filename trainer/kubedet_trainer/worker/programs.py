"""The programs that PID 1 starts one after the other: a check of memory, the data, and the agent."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

from kubedet_trainer import contract
from kubedet_trainer.contract import ExitCode, Failure
from kubedet_trainer.errors import TerminatedSaved
from kubedet_trainer.settings import RunSettings
from kubedet_trainer.telemetry import heartbeat
from kubedet_trainer.worker import endings, processes, warm
from kubedet_trainer.worker.endings import AgentEnding, Outcome, RankEnding
from kubedet_trainer.worker.warm import Program

POLL_SECONDS = 0.2

_KILL_MARGIN_SECONDS = 5
"""What PID 1 needs of the grace period after the agent has ended."""

_PREPARATION_END_SECONDS = 5
"""How long what comes before the training may take to remove its temporary files after a stop."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a launch differs from that of a container."""

    rank_module: str = endings.RANK_MODULE
    """The module that ``python -m`` runs as a rank."""
    output: IO[str] | None = None
    """Takes what the programs and the ranks print. None leaves it on this process's output."""
    observe: Callable[[Mapping[str, Any] | None], None] = lambda progress: None
    """Receives the progress record a few times a second, or None before there is one."""


class StopRequest:
    """Whether this process has received SIGTERM or SIGINT."""

    requested = False

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal: take a note, and let the main thread see it at its next poll."""
        self.requested = True


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Take note of SIGTERM and SIGINT within the block, instead of ending."""
    stop = StopRequest()
    before = {number: signal.signal(number, stop.note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_memory(
    settings: RunSettings, environment: Mapping[str, str], options: Options, stop: StopRequest
) -> Failure | None:
    """Compare the training with the memory of the GPUs. Returns why it cannot be, or None if it can.

    It is the first to use CUDA, whose first call never returns where a driver hangs.
    """
    if not settings.gpus:
        return None
    return _run_before_training(
        endings.FITTING_MODULE,
        "the check of GPU memory",
        settings,
        environment,
        options,
        stop,
        patience_seconds=settings.hang_timeout_seconds,
    )


def prepare_data(
    settings: RunSettings,
    environment: Mapping[str, str],
    options: Options,
    stop: StopRequest,
    *,
    with_proposals: bool,
) -> Failure | None:
    """Make the data local. Returns why that failed, or None if it did not."""
    return _run_before_training(
        endings.PREPARATION_MODULE,
        "the preparation of the data",
        settings,
        environment,
        options,
        stop,
        arguments=["--proposals"] if with_proposals else [],
    )


def _run_before_training(
    module: str,
    name: str,
    settings: RunSettings,
    environment: Mapping[str, str],
    options: Options,
    stop: StopRequest,
    *,
    arguments: Sequence[str] = (),
    patience_seconds: float = math.inf,
) -> Failure | None:
    deadline = time.monotonic() + patience_seconds
    memory_kills = processes.count_memory_kills()
    program = processes.start_module(
        module, arguments=arguments, environment=environment, output=options.output
    )
    for _ in _polls(program, stop=stop, grace_seconds=_PREPARATION_END_SECONDS):
        options.observe(read_json(settings.work_directory / contract.PROGRESS_FILE))
        if time.monotonic() > deadline:
            program.kill()
            with suppress(subprocess.TimeoutExpired):  # a call of the driver may hold it even so
                program.wait(_KILL_MARGIN_SECONDS)
            return endings.hang(name, patience_seconds)
    if records := endings.read_failures(settings.work_directory / contract.FAILURES_DIRECTORY):
        return records[0]
    if stop.requested:
        return endings.failure_of(TerminatedSaved("stopped as asked, before training began"))
    if program.returncode == ExitCode.DONE:
        return None
    memory_limit_hit = processes.count_memory_kills() > memory_kills
    return endings.crash(name, program.returncode, memory_limit_hit=memory_limit_hit)


def run_agent(
    settings: RunSettings,
    environment: Mapping[str, str],
    options: Options,
    stop: StopRequest,
    *,
    standby: warm.OwnStandby | None,
    restarts: int,
    noticed: float | None,
) -> AgentEnding:
    """Run one agent to its end. None of its processes outlives it.

    Args:
        settings: of the worker.
        environment: the contract's variables, and whatever else the ranks need.
        options: how the launch differs from that of a container.
        stop: ends the agent when requested.
        standby: forks the agent and its ranks, if there is one; started again where it was lost.
        restarts: how often ranks of this worker have been started again before.
        noticed: steady time at which the loss of the agent before was noticed, if one was lost.
    """
    record = settings.work_directory / endings.ENDING_FILE
    record.unlink(missing_ok=True)
    watch = heartbeat.HangWatch(
        settings.work_directory,
        patience_seconds=settings.hang_timeout_seconds,
        peer_seconds=0.0 if settings.rendezvous_endpoint is None else heartbeat.PEER_SECONDS,
    )
    hung = None
    processes.adopt_orphans()
    if standby is not None:
        standby.renew()
    others = processes.children()
    arguments = ["--module", options.rank_module, "--restarts", str(restarts)]
    if noticed is not None:
        arguments += ["--noticed", str(noticed)]
    agent = warm.start(
        endings.AGENT_MODULE,
        arguments=arguments,
        environment=agent_environment(settings, environment),
        changes={},
        output=(1, 2) if options.output is None else (options.output.fileno(), options.output.fileno()),
        using=standby,
    )
    grace_seconds = max(0, settings.grace_seconds - _KILL_MARGIN_SECONDS)
    for _ in _polls(agent, stop=stop, grace_seconds=grace_seconds):
        options.observe(read_json(settings.work_directory / contract.PROGRESS_FILE))
        if hung is None and (hung := watch.find_hung()) is not None:
            _logger.error("rank %d hangs: %s\n%s", hung.rank, hung.message, "\n".join(hung.stacks))
            agent.kill()
    processes.kill_orphans(except_for=others)
    if hung is not None:
        rank = RankEnding(rank=hung.rank, exit_code=ExitCode.HANG, time=time.time(), last_lines=hung.stacks)
        return AgentEnding(outcome=Outcome.HUNG, ranks=[rank], message=hung.message)
    try:
        return endings.parse_agent_ending(record.read_text())
    except FileNotFoundError:
        return AgentEnding(outcome=Outcome.CRASHED, exit_code=agent.wait())


def _polls(program: Program, *, stop: StopRequest, grace_seconds: float) -> Iterator[None]:
    """Yield a few times a second until `program` has ended.

    After a stop request `program` gets SIGTERM, and SIGKILL when it still runs after `grace_seconds`.
    """
    kill_at = None
    while program.poll() is None:
        processes.reap_orphans(except_for=program)
        yield
        if stop.requested and kill_at is None:
            program.send_signal(signal.SIGTERM)
            kill_at = time.monotonic() + grace_seconds
        if kill_at is not None and time.monotonic() > kill_at:
            program.kill()
        time.sleep(POLL_SECONDS)


def agent_environment(settings: RunSettings, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of the agent and the ranks. What the user has set wins, except for what is vital."""
    threads = max(1, len(os.sched_getaffinity(0)) // settings.procs_per_replica)
    return {
        "OMP_NUM_THREADS": str(threads),
        "PYTHONFAULTHANDLER": "1",
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
        "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": "120",
        "TORCH_FR_BUFFER_SIZE": "2000",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",  # as torchrun sets it
        "TORCHINDUCTOR_CACHE_DIR": str(settings.work_directory / contract.CACHE_DIRECTORY / "compiled"),
        "TORCHINDUCTOR_COMPILE_THREADS": str(threads),
        **environment,
        "PROMETHEUS_MULTIPROC_DIR": str(settings.work_directory / contract.METRICS_DIRECTORY),
        "PYTHONUNBUFFERED": "1",
        "OPENBLAS_NUM_THREADS": "1",  # numpy's threads; the standby that ranks are forked from must have one
    }


def read_json(path: Path) -> dict[str, Any] | None:
    """The document in `path`, or None if there is no such file."""
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return document
