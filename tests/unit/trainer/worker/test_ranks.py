"""The ranks of a worker as processes, started the cold way; `test_standby.py` has the warm one."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kubedet_trainer.worker.ranks import Ranks

Start = Callable[..., Ranks]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a rank for each piece of code."""
    started: list[Ranks] = []

    def begin(*codes: str) -> Ranks:
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        (tmp_path / "brief.py").write_text("import os; exec(os.environ['CODE'])")
        environments = [{"CODE": code, "RANK": str(rank)} for rank, code in enumerate(codes)]
        started.append(Ranks("brief", environments, logs=tmp_path / "logs", using=None))
        return started[-1]

    yield begin
    for ranks in started:
        ranks.close(signal.SIGKILL, 60)


def await_end(ranks: Ranks, index: int) -> None:
    while ranks.poll()[index] is None:
        time.sleep(0.02)


def test_ranks_report_their_endings_and_keep_their_last_lines(start: Start) -> None:
    ranks = start(
        "import time; time.sleep(300)",
        "import os, sys; print(os.environ['RANK'], file=sys.stderr); sys.exit(7)",
    )
    await_end(ranks, 1)
    assert ranks.poll() == [None, 7]
    assert ranks.own_endings() == [(1, 7)]
    assert abs(ranks.ended_at(1) - time.time()) < 60
    assert ranks.last_output(1, num_bytes=100) == "1\n"


def test_only_the_end_of_a_long_output_is_read(start: Start) -> None:
    ranks = start("import sys; print('a' * 100 + 'end', end='', file=sys.stderr)")
    await_end(ranks, 0)
    assert ranks.last_output(0, num_bytes=4) == "aend"


def test_close_ends_ranks_and_their_children_by_the_signal(start: Start) -> None:
    ranks = start("import subprocess; subprocess.run(['sleep', '300'])", "import time; time.sleep(300)")
    assert ranks.poll() == [None, None]
    ranks.close(signal.SIGTERM, 60)
    assert ranks.poll() == [-signal.SIGTERM, -signal.SIGTERM]
    assert ranks.own_endings() == [(0, -signal.SIGTERM), (1, -signal.SIGTERM)]


def test_rank_that_ignores_the_signal_is_killed(start: Start, tmp_path: Path) -> None:
    ranks = start(
        "import pathlib, signal, time; signal.signal(15, signal.SIG_IGN);"
        f"pathlib.Path({str(tmp_path / 'deaf')!r}).touch(); time.sleep(300)"
    )
    while not (tmp_path / "deaf").exists():
        time.sleep(0.02)
    ranks.close(signal.SIGTERM, 0.2)
    assert ranks.own_endings() == [(0, -signal.SIGKILL)]


def test_rank_that_was_killed_at_once_has_no_ending_of_its_own(start: Start) -> None:
    ranks = start("import time; time.sleep(300)", "import sys; sys.exit(3)")
    await_end(ranks, 1)
    ranks.close(signal.SIGKILL, 60)
    assert ranks.poll() == [-signal.SIGKILL, 3]
    assert ranks.own_endings() == [(1, 3)]


def test_lines_of_the_first_rank_are_passed_on_as_they_are(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    ranks = start("print('{\"rank\": 0}')", "print('{\"rank\": 1}')")
    while None in ranks.poll():
        time.sleep(0.02)
    assert ranks.poll() == [0, 0]
    assert capfd.readouterr().out.splitlines() == ['{"rank": 0}']
