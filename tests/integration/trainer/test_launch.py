"""PID 1 with the real agent: how the worker ends, whatever its ranks do."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launched_worker import (
    Worker,
    await_new_steps,
    await_true,
    descendants,
    processes_of,
)

pytestmark = [pytest.mark.torchrun, pytest.mark.timeout(600)]


def metrics_of(worker: Worker) -> str:
    line = next(text for text in worker.output().splitlines() if '"port"' in text)
    port = json.loads(line)["port"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def test_killed_and_crashed_ranks_start_again_in_the_same_worker(start_worker: Callable[..., Worker]) -> None:
    worker = start_worker(
        {"0": ["await_mark never"], "1": ["crash SIGKILL"]},
        {"0": ["crash SIGSEGV"], "1": ["await_mark never"]},
        {
            "0": ["count", "say hello", "results", "mark running", "await_mark finish"],
            "1": ["count", "say quiet", "mark counted", "await_mark finish"],
        },
        KUBEDET_PROCS_PER_REPLICA="2",
    )
    worker.await_mark("running")
    worker.await_mark("counted")
    assert "kubedet_trainer_images_total 10.0" in metrics_of(worker)
    worker.mark("finish")
    assert worker.end() == 0, worker.output()
    empty: dict[str, Any] = {"metrics": [], "hardware": {}, "reference": {}, "leftOut": {}}
    assert worker.message()["results"] == {"boxAP": 12.5, **empty}
    assert '"message": "hello"' in worker.output()
    assert '"message": "quiet"' not in worker.output()
    logs = [path.read_text() for path in (worker.directory / "work" / "logs").rglob("stdout.log")]
    assert any("quiet" in text for text in logs)


def test_permanent_failure_of_one_rank_ends_the_worker_with_its_record(
    start_worker: Callable[..., Worker],
) -> None:
    worker = start_worker(
        {"0": ["ignore_sigterm", "mark up", "await_mark never"], "1": ["await_mark up", "fail 96"]},
        KUBEDET_PROCS_PER_REPLICA="2",
    )
    assert worker.end() == 96, worker.output()
    failure = worker.message()["failure"]
    assert (failure["exitCode"], failure["rank"], failure["message"]) == (96, 1, "as planned")
    lines = [json.loads(line) for line in worker.output().splitlines()]
    assert [line["message"] for line in lines if line["level"] != "INFO"] == ["as planned"]
    assert (worker.directory / "work" / "starts-1").read_text() == "x"


def test_exception_without_a_record_ends_the_worker_at_once(start_worker: Callable[..., Worker]) -> None:
    worker = start_worker({"0": ["raise something odd"]})
    assert worker.end() == 1, worker.output()
    failure = worker.message()["failure"]
    assert failure["exitCode"] == 1
    assert failure["lastLines"][-1].strip() == "RuntimeError: something odd"


def test_worker_whose_rank_always_crashes_ends_with_the_signal(
    start_worker: Callable[..., Worker],
) -> None:
    worker = start_worker({"0": ["crash SIGSEGV"]})
    assert worker.end() == 139, worker.output()
    failure = worker.message()["failure"]
    assert (failure["exitCode"], failure["reason"], failure["rank"]) == (139, "SIGSEGV", 0)
    assert any("Segmentation fault" in line for line in failure["lastLines"])
    assert (worker.directory / "work" / "starts-0").read_text() == "xxxx"


@pytest.mark.parametrize(("code", "reason"), [(143, "TerminatedSaved"), (144, "TerminatedUnsaved")])
def test_sigterm_reaches_the_ranks_and_their_exit_code_counts(
    start_worker: Callable[..., Worker], code: int, reason: str
) -> None:
    worker = start_worker({"0": [f"on_sigterm {code}", "mark up", "await_mark never"]})
    worker.await_mark("up")
    worker.process.send_signal(signal.SIGTERM)
    assert worker.end() == code, worker.output()
    assert worker.message()["failure"]["reason"] == reason
    assert worker.message()["progress"]["progress"]["stage"] == "Initializing"


def test_hung_rank_ends_the_worker_with_its_stacks(start_worker: Callable[..., Worker]) -> None:
    worker = start_worker({"0": ["hang"]}, KUBEDET_HANG_TIMEOUT_SECONDS="2")
    assert worker.end() == 152, worker.output()
    failure = worker.message()["failure"]
    assert (failure["reason"], failure["rank"]) == ("Hang", 0)
    assert "no progress for 2 s" in failure["message"]
    assert any("in hang" in line for line in failure["lastLines"])
    assert "in hang" in worker.output()


@pytest.mark.parametrize("action", ["stop", "stop_early"])
def test_stopped_rank_is_noticed_within_its_limit_and_not_left_behind(
    start_worker: Callable[..., Worker], action: str
) -> None:
    worker = start_worker(
        {"0": ["await_mark never"], "1": [action]},
        KUBEDET_PROCS_PER_REPLICA="2",
        KUBEDET_HANG_TIMEOUT_SECONDS="2",
    )
    assert worker.end() == 152, worker.output()
    failure = worker.message()["failure"]
    assert (failure["reason"], failure["rank"]) == ("Hang", 1)
    (stacks,) = (worker.directory / "work" / "heartbeats" / "stacks").glob("1.*")
    assert not Path(f"/proc/{stacks.suffix[1:]}").exists()


def test_rank_that_waits_in_native_code_behind_a_crashed_one_is_neither_left_nor_blamed(
    start_worker: Callable[..., Worker],
) -> None:
    """As on a GPU: suppression waits for an exchange of gradients that will never end."""
    worker = start_worker(
        {"0": ["hang"], "1": ["await_beat 0", "crash SIGSEGV"]}, KUBEDET_PROCS_PER_REPLICA="2"
    )
    assert worker.end() == 139, worker.output()
    failure = worker.message()["failure"]
    assert (failure["reason"], failure["rank"]) == ("SIGSEGV", 1)
    assert (worker.directory / "work" / "starts-0").read_text() == "xxxx"
    for beat in (worker.directory / "work" / "heartbeats" / "touched").glob("0.*"):
        assert not Path(f"/proc/{beat.suffix[1:]}").exists()


def test_missing_data_set_ends_the_worker_before_any_rank(
    start_worker: Callable[..., Worker], tmp_path: Path
) -> None:
    worker = start_worker({"*": []}, KUBEDET_DATASET_URI=(tmp_path / "nowhere").as_uri())
    assert worker.end() == 66, worker.output()
    failure = worker.message()["failure"]
    assert failure["reason"] == "MissingInput"
    assert "nowhere" in failure["message"]
    assert not (worker.directory / "work" / "logs").exists()


def test_worker_starts_another_standby_once_its_own_is_lost(start_worker: Callable[..., Worker]) -> None:
    worker = start_worker({"*": ["reduce"]})
    await_new_steps(worker)
    lost, *forked = descendants(worker.process.pid)
    os.kill(lost, signal.SIGKILL)
    await_true(lambda: "the warm standby is lost and starts again" in worker.output())
    await_new_steps(worker)
    standby, agent, rank = descendants(worker.process.pid)
    assert not {lost, *forked} & {standby, agent, rank}
    assert b"worker.standby" in Path(f"/proc/{standby}/cmdline").read_bytes()
    assert processes_of(worker) == [agent, rank]  # forked from it, not started the cold way
    worker.mark("finish")
    assert worker.end() == 0, worker.output()


_GPU = """
import sys
if any(name.endswith("worker.fitting") for name in sys.orig_argv):
    from types import SimpleNamespace
    import torch
    torch.cuda.device_count = lambda: 1
    torch.cuda.get_device_properties = lambda number: SimpleNamespace(total_memory={size})
"""
"""Of a folder on Python's path: the check of memory sees a GPU, which only a driver could make."""


def add_gpu(folder: Path, *, size: int) -> str:
    """A PYTHONPATH on which there is a GPU of so many bytes."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_GPU.format(size=size))
    return f"{folder}:{Path(__file__).parent}"


def test_a_training_that_no_gpu_holds_ends_with_95_before_its_data_are_fetched(
    start_worker: Callable[..., Worker], tmp_path: Path
) -> None:
    worker = start_worker(
        KUBEDET_RECIPE="mask_rcnn_r50_fpn_1x",
        KUBEDET_OVERRIDES='{"data.images_per_process": "16"}',
        KUBEDET_GPUS="1",
        KUBEDET_DATASET_URI=(tmp_path / "nowhere").as_uri(),
        PYTHONPATH=add_gpu(tmp_path / "gpu", size=8 * 2**30),
    )
    assert worker.end() == 95, worker.output()
    failure = worker.message()["failure"]
    assert failure["reason"] == "GpuTooSmall"
    assert failure["message"].startswith("data.images_per_process: got 16, must be at most ")


def test_a_training_that_fits_goes_on_to_its_data(
    start_worker: Callable[..., Worker], tmp_path: Path
) -> None:
    worker = start_worker(
        KUBEDET_RECIPE="mask_rcnn_r50_fpn_1x",
        KUBEDET_OVERRIDES='{"data.images_per_process": "auto"}',
        KUBEDET_GPUS="1",
        KUBEDET_DATASET_URI=(tmp_path / "nowhere").as_uri(),
        PYTHONPATH=add_gpu(tmp_path / "gpu", size=80 * 2**30),
    )
    assert worker.end() == 66, worker.output()
    noted = json.loads((worker.directory / "work" / "capacity.json").read_text())
    assert noted == {"mostImages": 16}
