"""Refuses a training that its GPUs cannot hold: ``python -m kubedet_trainer.worker.fitting``, by `launch`.

It is a process of its own, as is the preparation of the data, because it takes torch and CUDA.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from dataclasses import asdict

from kubedet_trainer import config, contract, recipes
from kubedet_trainer.contract import ExitCode
from kubedet_trainer.errors import TrainerError
from kubedet_trainer.logs import configure_logging
from kubedet_trainer.settings import RunSettings, read_settings
from kubedet_trainer.storage.files import write_json
from kubedet_trainer.training import capacity
from kubedet_trainer.worker import endings, processes

_logger = logging.getLogger(endings.FITTING_MODULE)  # with -m, __name__ is __main__


def main() -> int:
    """Compare the estimate with the GPUs. Returns the exit code; a failure also leaves its record."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    processes.end_with_parent()
    configure_logging()
    settings = read_settings(os.environ)
    try:
        _fit(settings)
    except KeyboardInterrupt:
        return ExitCode.TERMINATED_SAVED
    except TrainerError as error:
        failure = endings.failure_of(error)
    except Exception:  # a training must not fail because its estimate does
        _logger.warning("the memory of this training cannot be estimated:\n%s", traceback.format_exc())
        return ExitCode.DONE
    else:
        return ExitCode.DONE
    record = settings.work_directory / contract.FAILURES_DIRECTORY / endings.FITTING_FILE
    write_json(record, contract.without_none(asdict(failure)))
    return int(failure.exitCode)


def _fit(settings: RunSettings) -> None:
    recipe = config.apply_overrides(recipes.read_recipe(settings.recipe), settings.overrides)
    memory_bytes = capacity.smallest_gpu()
    most = None if memory_bytes is None else capacity.check(recipe, memory_bytes=memory_bytes)
    if most is not None:
        capacity.note_most_images(settings.work_directory, most)


if __name__ == "__main__":
    sys.exit(main())
