"""PID 1 of a worker: ``python -m kubedet_trainer.worker.launch``.

Checks the recipe, makes the data set local, starts the agent (torchrun) that starts the ranks, serves their
metrics and progress, forwards SIGTERM, and turns every ending into an exit code and a termination message.
Imports no torch: it is up and answers in a fraction of a second, and stays small beside the ranks.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

from kubedet_trainer import config, contract, recipes
from kubedet_trainer.contract import Environment, ExitCode, Failure, Results
from kubedet_trainer.data import prepare, proposals
from kubedet_trainer.errors import TerminatedSaved, TrainerError
from kubedet_trainer.logs import configure_logging
from kubedet_trainer.settings import RunSettings, read_settings
from kubedet_trainer.telemetry import heartbeat
from kubedet_trainer.worker import endings, exposition, processes
from kubedet_trainer.worker.endings import AgentEnding, Outcome, RankEnding

RENDEZVOUS_PATIENCE_SECONDS = 120
"""How long a rendezvous store may be away, while its pod is made again or its name is not known yet."""

_POLL_SECONDS = 0.2
_KILL_MARGIN_SECONDS = 5

_logger = logging.getLogger(contract.LAUNCH_MODULE)  # run with -m, its own name is __main__


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a launch differs from that of a container."""

    rank_module: str = endings.RANK_MODULE
    """``python -m`` this is one rank."""
    output: IO[str] | None = None
    """Takes what the agent and the ranks print; None passes it on."""
    observe: Callable[[Mapping[str, Any] | None], None] = lambda progress: None
    """Is told the progress record, None before there is one, a few times a second."""


def main() -> int:
    """Run the worker that the environment describes; returns the exit code."""
    configure_logging()
    return run(os.environ)


def run(environment: Mapping[str, str], *, options: Options = Options()) -> int:
    """Run one worker to its end, and leave the termination message.

    Args:
        environment: the contract's variables, and everything else that the ranks shall see.
        options: differences for the command line and for tests.

    Returns:
        An exit code of the contract.
    """
    results: Results | None = None
    progress: dict[str, Any] | None = None
    try:
        settings = read_settings(environment)
        failure = _run(settings, environment, options)
        progress = _read_json(settings.work_directory / contract.PROGRESS_FILE)
        results = _read_results(settings) if failure is None else None
    except TrainerError as error:
        failure = endings.failure_of(error)
    except Exception as error:
        _logger.exception("the launcher failed")
        failure = endings.failure_of(error, last_lines=traceback.format_exc().splitlines()[-20:])
    if failure is not None:
        is_stop = failure.exitCode == ExitCode.TERMINATED_SAVED
        extra = {"exitCode": int(failure.exitCode), "reason": failure.reason}
        _logger.log(logging.WARNING if is_stop else logging.ERROR, failure.message, extra=extra)
    if path := environment.get(Environment.TERMINATION_MESSAGE_PATH):
        message = contract.dump_termination_message(results=results, failure=failure, progress=progress)
        Path(path).write_text(message)
    return 0 if failure is None else int(failure.exitCode)


def _run(settings: RunSettings, environment: Mapping[str, str], options: Options) -> Failure | None:
    # Refused before any work.
    recipe = config.apply_overrides(recipes.read_recipe(settings.recipe), settings.overrides)
    _clean_work_directory(settings)
    with (
        _stop_requests() as stop,
        exposition.serve(settings.work_directory, port=settings.metrics_port) as port,
    ):
        _logger.info("the worker serves metrics", extra={"port": port, "attempt": settings.attempt})
        with stop.ends_at_once():
            directory = settings.work_directory / contract.DATASET_DIRECTORY
            prepare.prepare_dataset(settings.dataset, directory)
            if recipe.data.num_proposals is not None:
                for split in prepare.splits_of(settings.dataset):
                    proposals.prepare_proposals(settings.dataset, directory, split=split)
        return _train(settings, environment, options, stop)


def _clean_work_directory(settings: RunSettings) -> None:
    """Remove what an earlier container left in the same volume; downloads and caches stay."""
    directory = settings.work_directory
    for name in (contract.FAILURES_DIRECTORY, contract.METRICS_DIRECTORY, heartbeat.DIRECTORY):
        shutil.rmtree(directory / name, ignore_errors=True)
        (directory / name).mkdir(parents=True)
    for name in (contract.PROGRESS_FILE, contract.RESULTS_FILE, endings.ENDING_FILE):
        (directory / name).unlink(missing_ok=True)
    if settings.replica_index == 0:
        record = contract.ProgressRecord(progress=contract.Progress(stage=contract.Stage.INITIALIZING))
        (directory / contract.PROGRESS_FILE).write_text(json.dumps(contract.without_none(asdict(record))))


def _train(
    settings: RunSettings, environment: Mapping[str, str], options: Options, stop: _StopRequest
) -> Failure | None:
    """Run agents until one ends for another reason than a rendezvous store that will come back."""
    memory_kills = processes.count_memory_kills()
    deadline = time.monotonic() + RENDEZVOUS_PATIENCE_SECONDS
    while True:
        if not _await_store(settings, stop, deadline=deadline):
            ending = AgentEnding(outcome=Outcome.RENDEZVOUS_LOST, message=str(settings.rendezvous_endpoint))
        elif stop.requested:
            ending = AgentEnding(outcome=Outcome.TERMINATED)
        else:
            ending = _run_agent(settings, environment, options, stop)
        failure = endings.translate(
            ending,
            records=endings.read_failures(settings.work_directory / contract.FAILURES_DIRECTORY),
            stop_requested=stop.requested,
            memory_limit_hit=processes.count_memory_kills() > memory_kills,
        )
        if ending.joined:
            deadline = time.monotonic() + RENDEZVOUS_PATIENCE_SECONDS
        lost = failure is not None and failure.exitCode == ExitCode.RENDEZVOUS_LOST
        if not lost or ending.outcome is not Outcome.RENDEZVOUS_LOST or time.monotonic() > deadline:
            return failure
        _logger.warning("the rendezvous store is unreachable; the agent restarts when it answers")


def _await_store(settings: RunSettings, stop: _StopRequest, *, deadline: float) -> bool:
    """Wait until the rendezvous store accepts connections; its name may not resolve for a while either."""
    if settings.rendezvous_endpoint is None:
        return True
    host, _, port = settings.rendezvous_endpoint.rpartition(":")
    while not stop.requested:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            if time.monotonic() > deadline:
                return False
            _logger.debug("no rendezvous store yet", extra={"error": str(error)})
            time.sleep(_POLL_SECONDS)
        else:
            return True
    return True


def _run_agent(
    settings: RunSettings, environment: Mapping[str, str], options: Options, stop: _StopRequest
) -> AgentEnding:
    """Start one agent, see it through, and return what it tells; nothing it started is left behind."""
    record = settings.work_directory / endings.ENDING_FILE
    record.unlink(missing_ok=True)
    watch = heartbeat.HangWatch(settings.work_directory, patience_seconds=settings.hang_timeout_seconds)
    hung = None
    processes.adopt_orphans()
    others = processes.children()
    agent = processes.start_module(
        endings.AGENT_MODULE,
        arguments=["--module", options.rank_module],
        environment=_agent_environment(settings, environment),
        output=options.output,
    )
    kill_at = None
    while agent.poll() is None:
        processes.reap_orphans(besides=agent)
        options.observe(_read_json(settings.work_directory / contract.PROGRESS_FILE))
        if stop.requested and kill_at is None:
            agent.send_signal(signal.SIGTERM)
            kill_at = time.monotonic() + max(0, settings.grace_seconds - _KILL_MARGIN_SECONDS)
        if hung is None and (hung := watch.find_hung()) is not None:
            _logger.error("rank %d hangs; its threads:\n%s", hung.rank, "\n".join(hung.stacks))
            agent.kill()
        if kill_at is not None and time.monotonic() > kill_at:
            agent.kill()
        time.sleep(_POLL_SECONDS)
    processes.kill_orphans(besides=others)
    if hung is not None:
        return AgentEnding(
            outcome=Outcome.HUNG,
            ranks=[
                RankEnding(rank=hung.rank, exit_code=ExitCode.HANG, time=time.time(), last_lines=hung.stacks)
            ],
            message=hung.message,
        )
    try:
        return endings.parse_agent_ending(record.read_text())
    except FileNotFoundError:
        return AgentEnding(outcome=Outcome.CRASHED, exit_code=agent.returncode)


def _agent_environment(settings: RunSettings, environment: Mapping[str, str]) -> dict[str, str]:
    """What the agent and the ranks see; what the user has set wins, but for what is needed to work."""
    threads = max(1, len(os.sched_getaffinity(0)) // settings.procs_per_replica)
    return {
        "OMP_NUM_THREADS": str(threads),
        "PYTHONFAULTHANDLER": "1",
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
        "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": "120",
        "TORCH_FR_BUFFER_SIZE": "2000",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",  # as torchrun has it
        **environment,
        "PROMETHEUS_MULTIPROC_DIR": str(settings.work_directory / contract.METRICS_DIRECTORY),
        "PYTHONUNBUFFERED": "1",
        # Shared with the process group, the store would hold addresses of the dead: no group would recover.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }


class _StopNow(BaseException):
    """Leaves whatever the main thread is doing; no `except Exception` holds it."""


class _StopRequest:
    """SIGTERM or SIGINT, remembered; within `ends_at_once` it also ends the work at hand."""

    requested = False
    _at_once = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if self._at_once:
            raise _StopNow

    @contextmanager
    def ends_at_once(self) -> Iterator[None]:
        """While no rank runs there is nothing to save: stop means stop."""
        self._at_once = True
        try:
            yield
        except _StopNow:
            raise TerminatedSaved("stopped as asked, before training began") from None
        finally:
            self._at_once = False


@contextmanager
def _stop_requests() -> Iterator[_StopRequest]:
    stop = _StopRequest()
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _read_results(settings: RunSettings) -> Results | None:
    """The results, where rank 0 ran."""
    document = _read_json(settings.work_directory / contract.RESULTS_FILE)
    return None if document is None else Results(**document)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return document


if __name__ == "__main__":
    sys.exit(main())
