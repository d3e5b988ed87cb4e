"""Processes are born with the stop signals blocked, whatever started the fork server and whenever."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import signal
from multiprocessing import resource_tracker
from kubedet_trainer.data import forked

BEFORE
hears = signal.pthread_sigmask(signal.SIG_BLOCK, ())
with forked.context("kubedet_trainer.data.forked").Pool(1) as pool:
    born = pool.apply(signal.pthread_sigmask, (signal.SIG_BLOCK, ()))
    pool.apply(forked.hear_stops)
    later = pool.apply(signal.pthread_sigmask, (signal.SIG_BLOCK, ()))
assert hears == signal.pthread_sigmask(signal.SIG_BLOCK, ())
print(set(forked.STOP_SIGNALS) <= born, later & set(forked.STOP_SIGNALS))
"""


@pytest.mark.parametrize(
    "before",
    ["", "resource_tracker.ensure_running()", "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])"],
)
def test_children_hear_stops_only_once_they_say_so(before: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("BEFORE", before)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True set()\n"
