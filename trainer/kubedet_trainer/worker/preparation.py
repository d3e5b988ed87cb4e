"""Makes the data of a worker local: ``python -m kubedet_trainer.worker.preparation``, started by `launch`.

It is a process of its own. PID 1 can end it at any moment, and its memory is free before the ranks start.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict

from kubedet_trainer import contract
from kubedet_trainer.contract import ExitCode
from kubedet_trainer.data import prepare, proposals
from kubedet_trainer.errors import TrainerError
from kubedet_trainer.logs import configure_logging
from kubedet_trainer.settings import RunSettings, read_settings
from kubedet_trainer.storage.files import write_json
from kubedet_trainer.worker import endings, processes

_logger = logging.getLogger(endings.PREPARATION_MODULE)  # with -m, __name__ is __main__


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the data local. Returns the exit code; a failure also leaves its record in the work directory."""
    parser = argparse.ArgumentParser(prog=f"python -m {endings.PREPARATION_MODULE}")
    parser.add_argument("--proposals", action="store_true", help="the recipe trains on computed proposals")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: temporary files are removed
    processes.end_with_parent()
    configure_logging()
    settings = read_settings(os.environ)
    try:
        _prepare(settings, with_proposals=options.proposals)
    except KeyboardInterrupt:
        return ExitCode.TERMINATED_SAVED
    except TrainerError as error:
        failure = endings.failure_of(error)
    except Exception as error:
        _logger.exception("the preparation of the data failed")
        failure = endings.failure_of(error, last_lines=traceback.format_exc().splitlines()[-20:])
    else:
        return ExitCode.DONE
    record = settings.work_directory / contract.FAILURES_DIRECTORY / endings.PREPARATION_FILE
    write_json(record, contract.without_none(asdict(failure)))
    return int(failure.exitCode)


def _prepare(settings: RunSettings, *, with_proposals: bool) -> None:
    directory = settings.work_directory / contract.DATASET_DIRECTORY
    prepare.prepare_dataset(settings.dataset, directory)
    if with_proposals:
        for split in prepare.splits_of(settings.dataset):
            proposals.prepare_proposals(settings.dataset, directory, split=split)


if __name__ == "__main__":
    sys.exit(main())
