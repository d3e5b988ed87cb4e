"""One way to write log lines: JSON for machines, plain colour for a person at a terminal."""

from __future__ import annotations

import logging
import os
import sys
from functools import cache
from typing import TYPE_CHECKING, TextIO

from kubedet_trainer.contract.times import format_unix_time

if TYPE_CHECKING:
    from rich.console import Console


def configure_logging(stream: TextIO | None = None, *, level: int = logging.INFO) -> None:
    """Send all log records of this process to `stream` (standard error), replacing earlier handlers.

    A line of JSON has the fields ``time``, ``level``, ``logger``, ``message``, in a rank ``rank``, and those
    of ``extra``.
    """
    stream = stream or sys.stderr
    handler = _terminal_handler(stream) if stream.isatty() else _json_handler(stream)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)


@cache
def stderr_console() -> Console:
    """The console of standard error: log lines go above a progress bar only if both have the same one."""
    from rich.console import Console  # a tenth of a second that only a terminal needs to pay

    return Console(stderr=True)


def _terminal_handler(stream: TextIO) -> logging.Handler:
    from rich.console import Console
    from rich.logging import RichHandler

    console = stderr_console() if stream is sys.stderr else Console(file=stream)
    handler = RichHandler(console=console, show_path=False, log_time_format="%H:%M:%S")
    handler.setFormatter(logging.Formatter("%(message)s"))  # the handler itself shows time and level
    return handler


def _json_handler(stream: TextIO) -> logging.Handler:
    from pythonjsonlogger.json import JsonFormatter

    class Formatter(JsonFormatter):
        def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
            return format_unix_time(record.created, timespec="milliseconds")

    rank = os.environ.get("RANK")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        Formatter(
            "{asctime}{levelname}{name}{message}",
            style="{",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            static_fields={"rank": int(rank)} if rank is not None else {},
        )
    )
    return handler
