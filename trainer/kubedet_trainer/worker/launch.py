"""PID 1 of a worker: ``python -m kubedet_trainer.worker.launch``.

It checks the recipe, has the memory of its GPUs checked and the data made local, has the agent start the
ranks, and serves their metrics and progress. It passes SIGTERM on, and turns every ending into an exit code
and a termination message. It imports no torch, so it answers within a fraction of a second and stays small
compared with the ranks.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kubedet_trainer import config, contract, recipes
from kubedet_trainer.contract import Environment, ExitCode, Failure, Results
from kubedet_trainer.errors import TrainerError
from kubedet_trainer.logs import configure_logging
from kubedet_trainer.settings import RunSettings, read_settings
from kubedet_trainer.storage.files import write_json
from kubedet_trainer.telemetry import heartbeat
from kubedet_trainer.worker import endings, exposition, processes, programs, warm
from kubedet_trainer.worker.endings import AgentEnding, Outcome
from kubedet_trainer.worker.programs import Options, StopRequest
from kubedet_trainer.worker.rendezvous import parse_endpoint

RENDEZVOUS_PATIENCE_SECONDS = 120
"""How long the rendezvous store may be away. Its pod may be restarting, or its name may not resolve yet."""

_logger = logging.getLogger(contract.LAUNCH_MODULE)  # with -m, __name__ is __main__


def main() -> int:
    """Run the worker that the environment describes. Returns the exit code."""
    configure_logging()
    return run(os.environ)


def run(environment: Mapping[str, str], *, options: Options = Options()) -> int:
    """Run one worker to its end, and write the termination message.

    Args:
        environment: the contract's variables, and whatever else the ranks need.
        options: what the command line and tests do differently.

    Returns:
        An exit code of the contract.
    """
    results: Results | None = None
    progress: dict[str, Any] | None = None
    try:
        settings = read_settings(environment)
        failure = _run(settings, environment, options)
        progress = programs.read_json(settings.work_directory / contract.PROGRESS_FILE)
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
    # A wrong recipe is refused before any work.
    recipe = config.apply_overrides(recipes.read_recipe(settings.recipe), settings.overrides)
    with_proposals = recipe.data.num_proposals is not None
    _clean_work_directory(settings)
    with (
        programs.stop_requests() as stop,
        exposition.serve(settings.work_directory, port=settings.metrics_port) as port,
        warm.standby(programs.agent_environment(settings, environment)) as standby,
    ):
        _logger.info("the worker serves metrics", extra={"port": port, "attempt": settings.attempt})
        return (
            programs.check_memory(settings, environment, options, stop)
            or programs.prepare_data(settings, environment, options, stop, with_proposals=with_proposals)
            or _train(settings, environment, options, stop, standby)
        )


def _clean_work_directory(settings: RunSettings) -> None:
    """Remove what an earlier container left in the same volume, except downloads and caches."""
    directory = settings.work_directory
    for name in (contract.FAILURES_DIRECTORY, contract.METRICS_DIRECTORY, heartbeat.DIRECTORY):
        shutil.rmtree(directory / name, ignore_errors=True)
        (directory / name).mkdir(parents=True)
    for name in (
        contract.CAPACITY_FILE,
        contract.PROGRESS_FILE,
        contract.RESULTS_FILE,
        endings.ENDING_FILE,
    ):
        (directory / name).unlink(missing_ok=True)
    if settings.replica_index == 0:
        record = contract.ProgressRecord(progress=contract.Progress(stage=contract.Stage.INITIALIZING))
        write_json(directory / contract.PROGRESS_FILE, contract.without_none(asdict(record)))


def _train(
    settings: RunSettings,
    environment: Mapping[str, str],
    options: Options,
    stop: StopRequest,
    standby: warm.OwnStandby | None,
) -> Failure | None:
    """Run agents until one ends for another reason than a crash or an absence of the rendezvous store."""
    memory_kills = processes.count_memory_kills()
    restarts = crashes = 0
    noticed = None
    started = time.monotonic()
    deadline = time.monotonic() + RENDEZVOUS_PATIENCE_SECONDS
    while True:
        if not _await_store(settings, stop, deadline=deadline):
            ending = AgentEnding(outcome=Outcome.RENDEZVOUS_LOST, message=str(settings.rendezvous_endpoint))
        elif stop.requested:
            ending = AgentEnding(outcome=Outcome.TERMINATED)
        else:
            started = time.monotonic()
            ending = programs.run_agent(
                settings, environment, options, stop, standby=standby, restarts=restarts, noticed=noticed
            )
        failure = endings.translate(
            ending,
            records=endings.read_failures(settings.work_directory / contract.FAILURES_DIRECTORY),
            stop_requested=stop.requested,
            memory_limit_hit=processes.count_memory_kills() > memory_kills,
        )
        if ending.joined:
            deadline = time.monotonic() + RENDEZVOUS_PATIENCE_SECONDS
        if ending.outcome is Outcome.CRASHED and not stop.requested:
            if time.monotonic() - started > endings.CRASH_MEMORY_SECONDS:
                crashes = 0
            crashes += 1
            if not endings.is_worth_a_restart([ending.exit_code], crashes_in_a_row=crashes):
                return failure
            noticed = time.monotonic()
            restarts = max(restarts, _num_restarts(settings)) + 1
            _logger.warning("the agent was killed and restarts", extra={"exitCode": ending.exit_code})
            continue
        lost = failure is not None and failure.exitCode == ExitCode.RENDEZVOUS_LOST
        if not lost or ending.outcome is not Outcome.RENDEZVOUS_LOST or time.monotonic() > deadline:
            return failure
        _logger.warning("the rendezvous store is unreachable; the agent restarts when it answers")


def _num_restarts(settings: RunSettings) -> int:
    """How often rank 0 of this worker was started again, as far as it has told."""
    progress = programs.read_json(settings.work_directory / contract.PROGRESS_FILE) or {}
    return int(progress.get("processRestarts", 0))


def _await_store(settings: RunSettings, stop: StopRequest, *, deadline: float) -> bool:
    """Wait until the rendezvous store accepts connections. Returns False if it does not before `deadline`."""
    if settings.rendezvous_endpoint is None:
        return True
    address = parse_endpoint(settings.rendezvous_endpoint)
    while not stop.requested:
        try:
            socket.create_connection(address, timeout=5).close()
        except OSError as error:
            if time.monotonic() > deadline:
                return False
            _logger.debug("no rendezvous store yet", extra={"error": str(error)})
            time.sleep(programs.POLL_SECONDS)
        else:
            return True
    return True


def _read_results(settings: RunSettings) -> Results | None:
    """The results, if rank 0 ran in this worker."""
    document = programs.read_json(settings.work_directory / contract.RESULTS_FILE)
    return None if document is None else Results(**document)


if __name__ == "__main__":
    sys.exit(main())
