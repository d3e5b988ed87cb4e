"""Log lines: JSON for machines, readable at a terminal."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from datetime import datetime

import pytest

from kubedet_trainer.commands.terminal import ProgressBar
from kubedet_trainer.logs import configure_logging, stderr_console
from screen import read_screen


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    root.handlers, root.level = handlers, level


def test_line_is_json_with_named_fields_and_extras() -> None:
    stream = io.StringIO()
    configure_logging(stream)
    logging.getLogger("kubedet_trainer.training.loop").warning("slow %s", "disk", extra={"iteration": 7})
    line = json.loads(stream.getvalue())
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    assert line == {
        "level": "WARNING",
        "logger": "kubedet_trainer.training.loop",
        "message": "slow disk",
        "iteration": 7,
    }


def test_rank_is_part_of_every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    stream = io.StringIO()
    configure_logging(stream)
    logging.info("here")
    assert json.loads(stream.getvalue())["rank"] == 3


@pytest.mark.filterwarnings("default")
def test_exception_and_warning_stay_one_line_of_json() -> None:
    stream = io.StringIO()
    configure_logging(stream)
    try:
        raise ValueError("bad")
    except ValueError:
        logging.exception("failed")
    warnings.warn("old", stacklevel=1)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert "ValueError: bad" in lines[0]["exc_info"]
    assert "old" in lines[1]["message"]


def test_terminal_gets_no_json() -> None:
    stream = Terminal()
    configure_logging(stream)
    logging.info("epoch done")
    (line,) = stream.getvalue().splitlines()
    assert "epoch done" in line
    assert "{" not in line
    assert line.count("INFO") == 1


def test_log_lines_go_above_a_bar_of_the_same_console(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    stderr_console.cache_clear()
    configure_logging()
    with ProgressBar(stderr_console()) as bar:
        bar.update({"progress": {"stage": "Training", "iteration": 1, "totalIterations": 2}})
        logging.info("epoch done")
    shown = read_screen(screen.getvalue())
    assert len([line for line in shown if "Training" in line]) == 1
    assert [line for line in shown if "epoch done" in line and "Training" not in line]
