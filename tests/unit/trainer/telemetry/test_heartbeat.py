"""Ranks that make progress are left alone. A rank that does not is named, with the stacks of its threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubedet_trainer.telemetry import heartbeat as heartbeats
from kubedet_trainer.telemetry.heartbeat import HangWatch, Heartbeat, announce


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_rank_that_has_never_beaten_is_not_watched(tmp_path: Path, clock: Clock) -> None:
    Heartbeat(tmp_path, rank=0)
    watch = HangWatch(tmp_path, patience_seconds=5, clock=clock)
    assert watch.find_hung() is None
    clock.now += 1000
    assert watch.find_hung() is None


def test_wait_for_others_counts_as_progress_but_is_nothing_to_begin_with(
    tmp_path: Path, clock: Clock
) -> None:
    heartbeat = Heartbeat(tmp_path, rank=0)
    watch = HangWatch(tmp_path, patience_seconds=5, clock=clock)
    heartbeat.beat_again()
    assert watch.find_hung() is None
    clock.now += 1000
    assert watch.find_hung() is None
    heartbeat.beat()
    for _ in range(3):
        heartbeat.beat_again()
        assert watch.find_hung() is None
        clock.now += 4
    assert watch.find_hung() is None
    clock.now += 2
    assert watch.find_hung() is not None


def test_silence_counts_from_the_last_beat(tmp_path: Path, clock: Clock) -> None:
    heartbeat = Heartbeat(tmp_path, rank=3)
    watch = HangWatch(tmp_path, patience_seconds=5, clock=clock)
    heartbeat.beat()
    assert watch.find_hung() is None
    clock.now += 4
    heartbeat.beat()
    assert watch.find_hung() is None
    clock.now += 4
    assert watch.find_hung() is None
    clock.now += 2
    hung = watch.find_hung()
    assert hung is not None
    assert hung.rank == 3
    assert any("test_silence_counts_from_the_last_beat" in line for line in hung.stacks)


def test_a_step_may_take_a_multiple_of_the_median_step(tmp_path: Path, clock: Clock) -> None:
    heartbeat = Heartbeat(tmp_path, rank=0, median_steps=20)
    watch = HangWatch(tmp_path, patience_seconds=600, clock=clock)
    for seconds in (50.0, 4.0, 6.0):
        heartbeat.beat_step(seconds)
        assert watch.find_hung() is None
        clock.now += 110
        assert watch.find_hung() is None
    clock.now += 20
    hung = watch.find_hung()
    assert hung is not None
    assert hung.message.startswith("no step for 120 s, must be within spec.failurePolicy.hangMedianSteps")


def test_work_outside_of_steps_may_take_longer_than_steps(tmp_path: Path, clock: Clock) -> None:
    heartbeat = Heartbeat(tmp_path, rank=0, median_steps=10)
    watch = HangWatch(tmp_path, patience_seconds=600, clock=clock)
    heartbeat.beat_step(0.1)
    heartbeat.beat()
    assert watch.find_hung() is None
    clock.now += 590
    assert watch.find_hung() is None


def test_quick_steps_may_take_a_minute(tmp_path: Path, clock: Clock) -> None:
    heartbeat = Heartbeat(tmp_path, rank=0, median_steps=10)
    watch = HangWatch(tmp_path, patience_seconds=600, clock=clock)
    heartbeat.beat_step(0.1)
    assert watch.find_hung() is None
    clock.now += 59
    assert watch.find_hung() is None
    clock.now += 2
    assert watch.find_hung() is not None


@pytest.fixture(params=["Heartbeat(Path(sys.argv[1]), rank=1).beat()", "announce(Path(sys.argv[1]), rank=1)"])
def stopped(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """Rank 1, which has beaten once, or has only started, and then stopped as SIGSTOP does."""
    script = (
        "import os, signal, sys; from pathlib import Path; "
        "from kubedet_trainer.telemetry.heartbeat import Heartbeat, announce; "
        f"{request.param}; os.kill(os.getpid(), signal.SIGSTOP)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, tmp_path])
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    yield process
    process.kill()
    process.wait()


def test_a_stopped_rank_is_the_one_that_hangs_not_a_rank_that_waits_for_it(
    tmp_path: Path, clock: Clock, stopped: subprocess.Popen[bytes]
) -> None:
    Heartbeat(tmp_path, rank=0).beat()
    watch = HangWatch(tmp_path, patience_seconds=5, clock=clock)
    assert watch.find_hung() is None
    clock.now += 6
    hung = watch.find_hung()
    assert hung is not None
    assert (hung.rank, hung.stacks) == (1, [])
    assert "its process is stopped, as by SIGSTOP" in hung.message


def test_a_rank_that_may_wait_for_a_stopped_one_of_another_worker_is_left_alone_for_a_while(
    tmp_path: Path, clock: Clock
) -> None:
    Heartbeat(tmp_path, rank=0).beat()
    watch = HangWatch(tmp_path, patience_seconds=5, peer_seconds=10, clock=clock)
    assert watch.find_hung() is None
    clock.now += 14
    assert watch.find_hung() is None
    clock.now += 2
    assert watch.find_hung() is not None


def test_a_stopped_rank_is_noticed_within_its_limit_though_its_worker_has_peers(
    tmp_path: Path, clock: Clock, stopped: subprocess.Popen[bytes]
) -> None:
    watch = HangWatch(tmp_path, patience_seconds=5, peer_seconds=10, clock=clock)
    assert watch.find_hung() is None
    clock.now += 6
    assert watch.find_hung() is not None


def test_a_rank_that_runs_may_wait_for_others_for_any_time_before_its_first_beat(
    tmp_path: Path, clock: Clock, stopped: subprocess.Popen[bytes]
) -> None:
    announce(tmp_path, rank=0)
    watch = HangWatch(tmp_path, patience_seconds=5, clock=clock)
    assert watch.find_hung() is None
    stopped.send_signal(signal.SIGCONT)
    stopped.wait()
    clock.now += 1000
    assert watch.find_hung() is None


def test_rank_that_has_ended_does_not_hang(tmp_path: Path, clock: Clock) -> None:
    script = (
        "import sys; from pathlib import Path; from kubedet_trainer.telemetry.heartbeat import Heartbeat; "
        "Heartbeat(Path(sys.argv[1]), rank=0).beat()"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True)
    watch = HangWatch(tmp_path, patience_seconds=5, clock=clock)
    assert watch.find_hung() is None
    clock.now += 1000
    assert watch.find_hung() is None


def test_long_work_counts_as_progress_while_it_computes_and_not_while_it_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats, "COMPUTING_SECONDS", 0.05)
    heartbeat = Heartbeat(tmp_path, rank=0)
    (touched,) = (tmp_path / heartbeats.DIRECTORY).glob("touched")
    with heartbeat.computing():
        end = time.process_time() + 0.5
        while time.process_time() < end:
            pass
    beats = [file.stat().st_mtime_ns for file in touched.iterdir()]
    assert len(beats) == 1
    with heartbeat.computing():
        time.sleep(0.1)  # what was computed last counts once more
        before = next(touched.iterdir()).stat().st_mtime_ns
        time.sleep(0.4)
    assert next(touched.iterdir()).stat().st_mtime_ns == before


@pytest.mark.parametrize("is_computing", [True, False])
def test_work_of_another_process_counts_while_that_one_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_computing: bool
) -> None:
    monkeypatch.setattr(heartbeats, "COMPUTING_SECONDS", 0.05)
    heartbeat = Heartbeat(tmp_path, rank=0)
    started = time.monotonic()
    with heartbeat.computing(lambda: time.monotonic() - started if is_computing else 3.0):
        time.sleep(0.3)
    touched = tmp_path / heartbeats.DIRECTORY / "touched"
    assert len(list(touched.iterdir())) == is_computing
