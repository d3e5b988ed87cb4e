"""PID 1 with the real agent: how the worker ends, whatever its ranks do."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import world
from kubedet_operator.decision.evidence import read_evidence

pytestmark = [pytest.mark.torchrun, pytest.mark.timeout(600)]

LAUNCH = """
import os, sys
from kubedet_trainer.worker import launch
from kubedet_trainer.logs import configure_logging
configure_logging()
sys.exit(launch.run(os.environ, options=launch.Options(rank_module="stub_rank")))
"""


def await_true(condition: Callable[[], Any], *, seconds: float = 240) -> None:
    """Poll until `condition` holds. The bound only ends a test that would hang."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.05)


def descendants(pid: int) -> list[int]:
    """The process ids below `pid`, nearest first."""
    found: list[int] = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *descendants(int(child))]
    return found


class Worker:
    """One worker as a process, with the files that it writes."""

    def __init__(self, directory: Path, *, plan: list[Mapping[str, list[str]]], **environment: str) -> None:
        self.directory = directory
        self.marks = directory / "marks"
        self.message_path = directory / "termination"
        self.marks.mkdir(parents=True, exist_ok=True)
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parent),
            "KUBEDET_RECIPE": "smoke_faster_rcnn",
            "KUBEDET_DATASET_URI": directory.parent.as_uri(),
            "KUBEDET_CHECKPOINT_URI": (directory / "checkpoints").as_uri(),
            "KUBEDET_WORK_DIRECTORY": str(directory / "work"),
            "KUBEDET_TERMINATION_MESSAGE_PATH": str(self.message_path),
            "KUBEDET_METRICS_PORT": "0",
            "KUBEDET_GRACE_SECONDS": "40",
            "STUB_DIRECTORY": str(self.marks),
            "STUB_STEPS": json.dumps(plan),
            **environment,
        }
        self.start()

    def start(self) -> None:
        self.log = (self.directory / "log").open("a+")
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH], env=self._environment, stdout=self.log, stderr=self.log
        )

    def output(self) -> str:
        return (self.directory / "log").read_text()

    def mark(self, name: str) -> None:
        (self.marks / name).touch()

    def await_mark(self, name: str) -> None:
        await_true(lambda: (self.marks / name).exists() or self.process.poll() is not None)
        assert (self.marks / name).exists(), self.output()

    def end(self, *, seconds: float = 240) -> int:
        code = self.process.wait(timeout=seconds)
        self.log.close()
        return code

    def message(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.message_path.read_text())
        return document

    def kill_all(self) -> None:
        """Kill all processes at once, as the loss of a node does."""
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def start(*plan: Mapping[str, list[str]], name: str = "worker", **environment: str) -> Worker:
        workers.append(Worker(tmp_path / name, plan=list(plan), **environment))
        return workers[-1]

    yield start
    for worker in workers:
        if worker.process.poll() is None:
            worker.kill_all()


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


def test_stopped_rank_is_noticed_within_its_limit_and_not_left_behind(
    start_worker: Callable[..., Worker],
) -> None:
    worker = start_worker(
        {"0": ["await_mark never"], "1": ["stop"]},
        KUBEDET_PROCS_PER_REPLICA="2",
        KUBEDET_HANG_TIMEOUT_SECONDS="2",
    )
    assert worker.end() == 152, worker.output()
    failure = worker.message()["failure"]
    assert (failure["reason"], failure["rank"]) == ("Hang", 1)
    (beat,) = (worker.directory / "work" / "heartbeats" / "touched").glob("1.*")
    assert not Path(f"/proc/{beat.suffix[1:]}").exists()


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


class Store:
    """A rendezvous pod as a process."""

    def __init__(self, port: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kubedet_trainer.worker.rendezvous"],
            env={**os.environ, "KUBEDET_RENDEZVOUS_ENDPOINT": f"store:{port}"},
        )

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def steps(worker: Worker) -> list[str]:
    path = worker.directory / "work" / "steps"
    return path.read_text().splitlines() if path.exists() else []


def await_new_steps(*workers: Worker) -> None:
    """Wait until ranks that did not run before have trained on every worker."""

    def has_trained_or_ended(worker: Worker, known: set[str]) -> bool:
        return not known.issuperset(steps(worker)) or worker.process.poll() is not None

    before = [set(steps(worker)) for worker in workers]
    for worker, known in zip(workers, before, strict=True):
        await_true(functools.partial(has_trained_or_ended, worker, known))
        assert worker.process.poll() is None, worker.output()


def await_more_steps(*workers: Worker) -> None:
    """Wait until every worker has trained on."""
    for worker in workers:
        before = len(steps(worker))
        await_true(lambda worker=worker, before=before: len(steps(worker)) > before + 10)  # type: ignore[misc]
        assert worker.process.poll() is None, worker.output()


def start_peer(
    start_worker: Callable[..., Worker],
    index: int,
    *,
    port: int,
    actions: Sequence[str] = ("reduce",),
    then: Sequence[str] | None = None,
    **environment: str,
) -> Worker:
    """One of two workers. By default its ranks train together with those of the other one.

    They do `actions` at their first start, and at later ones `then`, where it differs.
    """
    shared = {
        "KUBEDET_REPLICAS": "2",
        "KUBEDET_REPLICA_INDEX": str(index),
        "KUBEDET_RENDEZVOUS_ENDPOINT": f"localhost:{port}",
        "KUBEDET_RENDEZVOUS_ID": "uid-0",
        "KUBEDET_LOCAL_ADDRESS": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    plan = [{"*": list(actions)}] + ([] if then is None else [{"*": list(then)}])
    return start_worker(*plan, name=f"worker-{index}", **shared, **environment)


def leave(worker: Worker) -> None:
    worker.process.send_signal(signal.SIGTERM)
    assert worker.end() in (143, 144), worker.output()


def train_alone(worker: Worker) -> None:
    await_new_steps(worker)
    worker.mark("finish")
    assert worker.end() == 0, worker.output()


def test_two_workers_survive_the_loss_of_one_and_of_the_store(start_worker: Callable[..., Worker]) -> None:
    port = free_port()
    first, second = (start_peer(start_worker, index, port=port) for index in range(2))
    with Store(port):  # after the workers, which wait for it
        await_new_steps(first, second)
        second.kill_all()
        second.start()
        await_new_steps(first, second)
    ranks = [steps(worker)[-1] for worker in (first, second)]
    await_more_steps(first, second)  # without a store
    with Store(port) as store:
        await_more_steps(first, second)
        assert [steps(worker)[-1] for worker in (first, second)] == ranks
        for worker in (first, second):
            worker.mark("finish")
        assert [worker.end() for worker in (first, second)] == [0, 0], first.output() + second.output()
        store.process.send_signal(signal.SIGTERM)
        assert store.process.wait(timeout=60) == 0


def test_store_that_replaces_another_ends_a_round_whose_workers_are_lost(
    start_worker: Callable[..., Worker],
) -> None:
    port = free_port()
    first, second = (start_peer(start_worker, index, port=port) for index in range(2))
    with Store(port):
        await_new_steps(first, second)
    second.kill_all()
    with Store(port):
        second.start()
        await_new_steps(first, second)
        for worker in (first, second):
            worker.mark("finish")
        assert [worker.end() for worker in (first, second)] == [0, 0], first.output() + second.output()


def test_ranks_that_wait_in_native_code_for_a_lost_worker_are_ended_and_train_with_its_successor(
    start_worker: Callable[..., Worker],
) -> None:
    port = free_port()
    with Store(port):
        first, second = (
            start_peer(start_worker, index, port=port, actions=actions, then=["reduce"])
            for index, actions in enumerate((["hang"], ["mark up", "await_mark go", "reduce"]))
        )
        second.await_mark("up")
        beats = first.directory / "work" / "heartbeats" / "touched"
        await_true(lambda: list(beats.glob("0.*")))
        second.kill_all()
        second.mark("go")
        second.start()
        await_new_steps(first, second)
        for worker in (first, second):
            worker.mark("finish")
        assert [worker.end() for worker in (first, second)] == [0, 0], first.output() + second.output()
    assert "a rank of another worker is lost" in first.output()


def processes_of(worker: Worker) -> list[int]:
    """The agent of a worker and its ranks, without the launcher and the standby."""
    (standby,) = descendants(worker.process.pid)[:1]
    return descendants(standby)


def test_killed_agent_starts_again_in_its_worker_and_takes_its_ranks_along(
    start_worker: Callable[..., Worker],
) -> None:
    port = free_port()
    with Store(port):
        first, second = (start_peer(start_worker, index, port=port) for index in range(2))
        await_new_steps(first, second)
        agent, rank = processes_of(second)
        assert str(rank) == steps(second)[-1]
        os.kill(agent, signal.SIGKILL)
        await_new_steps(first, second)
        assert agent not in processes_of(second)
        assert rank not in processes_of(second)
        for worker in (first, second):
            worker.mark("finish")
        assert [worker.end() for worker in (first, second)] == [0, 0], first.output() + second.output()
    assert "the agent was killed and restarts" in second.output()
    assert "a rank of another worker is lost" in first.output()


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


def test_elastic_worker_admits_a_second_one_and_continues_without_it(
    start_worker: Callable[..., Worker],
) -> None:
    port = free_port()
    with Store(port):
        first = start_peer(start_worker, 0, port=port, KUBEDET_MIN_REPLICAS="1")
        await_new_steps(first)
        second = start_peer(start_worker, 1, port=port, KUBEDET_MIN_REPLICAS="1")
        await_new_steps(first, second)
        leave(second)
        train_alone(first)


def test_ranks_do_not_wait_for_a_peer_that_left_before_they_met(start_worker: Callable[..., Worker]) -> None:
    port = free_port()
    with Store(port):
        elastic = {"KUBEDET_MIN_REPLICAS": "1", "KUBEDET_MAX_REPLICAS": "2"}
        first, second = (
            start_peer(
                start_worker, index, port=port, actions=["mark up", "await_mark go", "reduce"], **elastic
            )
            for index in range(2)
        )
        for worker in (first, second):
            worker.await_mark("up")
        leave(second)
        first.mark("go")
        train_alone(first)


def test_worker_that_is_done_early_waits_without_a_restart_of_the_others(
    start_worker: Callable[..., Worker],
) -> None:
    port = free_port()
    with Store(port):
        plans = (["mark up"], ["mark up", "await_mark finish"])
        first, second = (
            start_peer(start_worker, index, port=port, actions=actions) for index, actions in enumerate(plans)
        )
        for worker in (first, second):
            worker.await_mark("up")
        time.sleep(20)  # longer than it takes to notice a worker that is lost
        second.mark("finish")
        assert [worker.end() for worker in (first, second)] == [0, 0], first.output() + second.output()
        starts = [path for worker in (first, second) for path in worker.directory.glob("work/starts-*")]
        assert [path.read_text() for path in starts] == ["x", "x"]


def test_of_two_workers_the_one_with_the_stopped_rank_ends_and_its_node_is_remembered(
    start_worker: Callable[..., Worker],
) -> None:
    port, limit = free_port(), {"KUBEDET_HANG_TIMEOUT_SECONDS": "2"}
    with Store(port):
        first = start_peer(start_worker, 0, port=port, actions=["hang"], **limit)
        second = start_peer(start_worker, 1, port=port, actions=["await_mark go", "stop"], **limit)
        beats = first.directory / "work" / "heartbeats" / "touched"
        await_true(lambda: list(beats.glob("0.*")))
        second.mark("go")  # rank 1 is silent for a shorter time than rank 0, which waits for it
        assert second.end() == 152, second.output()
        assert first.process.poll() is None, first.output()
        await_true(lambda: "a rank of another worker is lost" in first.output())
    failure = second.message()["failure"]
    assert (failure["reason"], failure["rank"]) == ("Hang", 1)
    assert "its process is stopped, as by SIGSTOP" in failure["message"]

    ended = world.pod(index=1, node="node-1", exit_code=152, message=second.message_path.read_text())
    status = world.decide_on(world.pod(), ended, worker={"replicas": 2}).status
    assert (status["lastFailure"]["node"], status["lastFailure"]["rank"]) == ("node-1", 1)
    assert read_evidence({"status": status}).keys() == {"node-1"}


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
