"""Workers that train together, with real agents: what the loss of a part does to the others."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import pytest

import world
from kubedet_operator.decision.evidence import read_evidence
from launched_worker import (
    Worker,
    await_more_steps,
    await_new_steps,
    await_true,
    processes_of,
    steps,
)

pytestmark = [pytest.mark.torchrun, pytest.mark.timeout(600)]


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
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


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


def finish(*workers: Worker) -> None:
    """Let workers that train together come to their end."""
    for worker in workers:
        worker.mark("finish")
    codes = [worker.end() for worker in workers]
    assert codes == [0] * len(workers), "".join(worker.output() for worker in workers)


def train_alone(worker: Worker) -> None:
    await_new_steps(worker)
    finish(worker)


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
        finish(first, second)
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
        finish(first, second)


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
        finish(first, second)
    assert "a rank of another worker is lost" in first.output()


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
        finish(first, second)
    assert "the agent was killed and restarts" in second.output()
    assert "a rank of another worker is lost" in first.output()


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
