"""One rank: ``python -m kubedet_trainer``, started by torchrun, or alone; all it needs is in the environment.

A failure is recorded before the process ends, so that the launcher knows its cause whatever happens to
the other ranks.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
import traceback
from dataclasses import asdict, replace
from pathlib import Path

from kubedet_trainer import config, contract, recipes
from kubedet_trainer.contract import Environment, ExitCode, Failure, FailureClass
from kubedet_trainer.errors import TrainerError, native
from kubedet_trainer.logs import configure_logging
from kubedet_trainer.settings import read_settings
from kubedet_trainer.storage.files import write_json
from kubedet_trainer.telemetry.metrics import Metrics
from kubedet_trainer.training.loop import train
from kubedet_trainer.worker import endings, fork_server

_SECONDS_TO_BE_ENDED = 30
"""How long a rank that no retry would help waits for the launcher to stop all ranks."""

_KILLED_LOADER = re.compile(
    r"DataLoader worker .*(exited unexpectedly|killed by signal: (?P<signal>\w+( \w+)?))"
)

_log = logging.getLogger(__name__)


def main() -> int:
    """Run this rank to its end; returns the exit code, unless it failed."""
    configure_logging()
    fork_server.start()
    settings = read_settings(os.environ)
    recipe = config.apply_overrides(recipes.read_recipe(settings.recipe), settings.overrides)
    train(settings, recipe, metrics=Metrics())
    return ExitCode.DONE


def describe(error: BaseException) -> Failure:
    """What `error` means for the run.

    Errors of CUDA and its libraries and a killed loader worker have codes of their own; any other exception
    that is no `TrainerError` is unexpected.
    """
    if isinstance(error, TrainerError):  # its message says what to do; where it was raised does not matter
        return endings.failure_of(error)
    lines = traceback.format_exception(error)[-5:]
    failure = endings.failure_of(error, last_lines="".join(lines).splitlines()[-20:])
    if not isinstance(error, RuntimeError):
        return failure
    if (verdict := native.judge(str(error))) is not None:
        return replace(failure, exitCode=verdict.exit_code, message=verdict.explain(str(error)))
    if _KILLED_LOADER.search(str(error)):
        return replace(
            failure,
            exitCode=ExitCode.KILLED,
            message=f"{error}; raise the memory limit or spec.worker.sharedMemory, or lower data.num_workers",
        )
    return failure


def _end(failure: Failure) -> None:
    """Leave the record of a failure and end without waiting for anybody: peers may be gone."""
    rank = int(os.environ.get("RANK", "0"))
    work = Path(os.environ.get(Environment.WORK_DIRECTORY) or "/tmp/kubedet")
    record = replace(failure, rank=rank)
    write_json(
        work / contract.FAILURES_DIRECTORY / contract.failure_file(rank),
        contract.without_none(asdict(record)),
    )
    is_permanent = contract.failure_class(record.exitCode) is FailureClass.PERMANENT
    if is_permanent and "TORCHELASTIC_RUN_ID" in os.environ:
        time.sleep(_SECONDS_TO_BE_ENDED)  # the launcher logs the message, once for all ranks
    else:
        _log.error(record.message, extra={"reason": record.reason, "exitCode": int(record.exitCode)})
    logging.shutdown()
    os._exit(record.exitCode)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Exception as error:
        if endings.failure_of(error).exitCode == ExitCode.UNEXPECTED:
            traceback.print_exc()
        _end(describe(error))
