"""How agents meet in the rendezvous store, and what they learn of one another."""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

import pytest
from torch.distributed.elastic.rendezvous import RendezvousClosedError

from kubedet_trainer.settings import read_settings
from kubedet_trainer.worker import meeting, rendezvous
from kubedet_trainer.worker.meeting import Meeting, Ticket
from kubedet_trainer.worker.peers import SharedRendezvous, build_rendezvous
from kubedet_trainer.worker.rendezvous import StoreServer
from kubedet_trainer.worker.store_client import Connection

Agent = Callable[..., SharedRendezvous]


@pytest.fixture
def server() -> Iterator[tuple[StoreServer, int]]:
    server = StoreServer(0)
    with server.serving() as port:
        yield server, port


@pytest.fixture
def agent(server: tuple[StoreServer, int]) -> Iterator[Agent]:
    """Connects an agent of a run of two workers, unless told otherwise."""
    agents: list[SharedRendezvous] = []

    def connect(index: int, **environment: str) -> SharedRendezvous:
        made = build_rendezvous(
            read_settings(
                {
                    "KUBEDET_RECIPE": "smoke_faster_rcnn",
                    "KUBEDET_DATASET_URI": "synthetic://shapes",
                    "KUBEDET_CHECKPOINT_URI": "file:///nowhere",
                    "KUBEDET_RENDEZVOUS_ENDPOINT": f"127.0.0.1:{server[1]}",
                    "KUBEDET_RENDEZVOUS_ID": "run",
                    "KUBEDET_REPLICAS": "2",
                    "KUBEDET_REPLICA_INDEX": str(index),
                    "KUBEDET_LOCAL_ADDRESS": f"10.0.0.{index}",
                    **environment,
                }
            )
        )
        assert isinstance(made, SharedRendezvous)
        agents.append(made)
        return made

    yield connect
    for made in agents:
        made.shutdown()


def meet(*agents: SharedRendezvous) -> list[tuple[int, int, str]]:
    """Have all join at once. Returns rank, size and address of the first rank for each."""
    with ThreadPoolExecutor(len(agents)) as threads:
        rounds = list(threads.map(lambda each: each.next_rendezvous(), agents))
    return [(each.rank, each.world_size, each.bootstrap_store_info.master_addr) for each in rounds]


def await_true(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.02)


def test_agents_are_ordered_by_worker_and_share_one_address(agent: Agent) -> None:
    second, first = agent(1), agent(0)
    assert meet(second, first) == [(1, 2, "10.0.0.0"), (0, 2, "10.0.0.0")]


def test_loss_of_an_agent_is_told_and_its_successor_comes_after_those_who_stayed(agent: Agent) -> None:
    first, second = agent(0), agent(1)
    meet(first, second)
    first.leave()
    await_true(second.has_lost_any)
    assert meet(agent(0), second) == [(1, 2, "10.0.0.1"), (0, 2, "10.0.0.1")]
    assert not second.has_lost_any()


def test_loss_of_a_rank_is_told_by_its_agent(agent: Agent) -> None:
    first, second = agent(0), agent(1)
    meet(first, second)
    first.report_loss()
    await_true(second.has_lost_any)
    assert [rank for rank, _, _ in meet(second, first)] == [1, 0]


def test_agent_that_is_silent_for_too_long_is_lost(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "SILENCE_SECONDS", 0.5)
    first, second = agent(0), agent(1)
    meet(first, second)
    second._ended.set()  # its connection stays open
    await_true(first.has_lost_any)


def test_run_that_is_closed_is_neither_lost_nor_joined(agent: Agent) -> None:
    first, second = agent(0), agent(1)
    meet(first, second)
    first.shutdown()
    first.leave()
    await_true(second.is_closed)
    assert not second.has_lost_any()
    with pytest.raises(RendezvousClosedError):
        agent(0).next_rendezvous()


def test_newcomer_is_announced_only_if_it_has_a_place(agent: Agent) -> None:
    elastic = {"KUBEDET_MIN_REPLICAS": "1", "KUBEDET_MAX_REPLICAS": "2"}
    first, second, third = (agent(index, **elastic) for index in range(3))
    with ThreadPoolExecutor(3) as threads:
        joined = [threads.submit(each.next_rendezvous) for each in (first, second)]
        assert {each.result().world_size for each in joined} == {2}
        waiting = threads.submit(third.next_rendezvous)
        time.sleep(0.5)
        assert (first.num_nodes_waiting(), waiting.done()) == (0, False)
        second.leave()
        await_true(lambda: first.num_nodes_waiting() == 1)
        assert first.next_rendezvous().rank == 0
        assert waiting.result().rank == 1


def test_round_without_a_lost_worker_begins_after_a_short_last_call(agent: Agent) -> None:
    elastic = {"KUBEDET_MIN_REPLICAS": "1", "KUBEDET_MAX_REPLICAS": "2"}
    first, second = (agent(index, **elastic) for index in range(2))
    meet(first, second)
    second.leave()
    await_true(first.has_lost_any)
    assert meet(first) == [(0, 1, "10.0.0.0")]


def test_connection_that_ends_after_its_successor_began_loses_nobody(agent: Agent) -> None:
    first, second = agent(0), agent(1)
    meet(first, second)
    old = first._connection
    assert old is not None
    first._connection = first._return()
    old.close()
    time.sleep(0.5)
    assert not first.has_lost_any()
    assert not second.has_lost_any()


def ticket(index: int) -> Ticket:
    return Ticket(
        name=f"agent-{index}",
        index=index,
        address="10.0.0.1",
        port=1,
        min_agents=2,
        max_agents=2,
        last_call_seconds=0,
    )


def test_a_worker_that_is_replaced_while_it_ends_has_one_place() -> None:
    run = Meeting()
    first, old = (replace(ticket(index), max_agents=3) for index in range(2))
    successor = replace(old, name="successor")
    with ThreadPoolExecutor(3) as threads:

        def join(agent: Ticket) -> Future[Any]:
            return threads.submit(run.join, asdict(agent), is_there=lambda: True)

        assert [each.result()["size"] for each in [join(first), join(old)]] == [2, 2]
        waiting = join(successor)
        await_true(lambda: successor.name in run._joining)
        assert run.look(first.name)["waiting"] == 0
        run.break_up(first.name)  # the one that trains has its place before its successor
        assert [each.result()["size"] for each in [join(first), join(old)]] == [2, 2]
        assert not waiting.done()
        run.leave(old.name)
        assert run.look(first.name)["waiting"] == 1
        assert [each.result()["size"] for each in [join(first), waiting]] == [2, 2]


def test_store_that_came_back_keeps_a_round_whose_agents_return(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "RETURN_SECONDS", 0.0)
    again = Meeting()
    for rank in range(2):
        again.attach(f"agent-{rank}", 7, rank, 2, 2)
    assert [again.look(f"agent-{rank}")["isLost"] for rank in range(2)] == [False, False]


def test_store_that_came_back_ends_a_round_whose_agents_stay_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "RETURN_SECONDS", 0.0)
    again = Meeting()
    again.attach("agent-0", 7, 0, 2, 2)
    await_true(lambda: again.look("agent-0")["isLost"])


def test_agent_that_waits_for_a_round_is_not_put_back_into_the_one_before() -> None:
    again = Meeting()
    with ThreadPoolExecutor(2) as threads, contextlib.closing(again):

        def join(index: int) -> Future[Any]:
            return threads.submit(again.join, asdict(ticket(index)), is_there=lambda: True)

        waiting = join(1)
        await_true(lambda: "agent-1" in again._joining)
        again.attach("agent-1", 7, 0, 2, 2)  # its request may have been on its way for long
        assert again.look("agent-1")["waiting"] == 1
        other = join(0)
        rounds = [each.result(timeout=20) for each in (waiting, other)]
    assert [place and place["rank"] for place in rounds] == [0, 1]


def test_threads_of_an_agent_share_the_connection_to_a_store_that_is_back(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = agent(0)
    lost, connect = first._connection, first._connect
    assert lost is not None

    def connect_slowly() -> Connection:
        time.sleep(0.2)
        return connect()

    monkeypatch.setattr(first, "_connect", connect_slowly)
    lost.close()
    await_true(lambda: first._connection is not lost)
    with ThreadPoolExecutor(4) as threads:
        found = {id(connection) for connection in threads.map(lambda _: first._connected(), range(4))}
    assert found == {id(first._connection)}


def test_store_that_was_stopped_or_cut_off_ends_no_round_whose_agents_return(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(meeting, "AWAY_SECONDS", 0.2)
    run = Meeting()
    with ThreadPoolExecutor(2) as threads:
        join = functools.partial(run.join, is_there=lambda: True)
        rounds = list(threads.map(join, [asdict(ticket(0)), asdict(ticket(1))]))
    time.sleep(0.3)  # in which no agent looks
    for index, place in enumerate(rounds):
        assert place is not None
        run.leave(ticket(index).name)  # its connection has ended
        run.attach(ticket(index).name, place["number"], place["rank"], place["size"], 2)
        assert not run.look(ticket(index).name)["isLost"]
    assert [run.look(ticket(index).name)["isLost"] for index in range(2)] == [False, False]


def test_store_that_was_away_ends_a_round_whose_agents_do_not_return(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "AWAY_SECONDS", 0.2)
    monkeypatch.setattr(meeting, "RETURN_SECONDS", 0.1)
    run = Meeting()
    with ThreadPoolExecutor(2) as threads:
        join = functools.partial(run.join, is_there=lambda: True)
        list(threads.map(join, [asdict(ticket(0)), asdict(ticket(1))]))
    time.sleep(0.3)
    run.leave(ticket(0).name)
    await_true(lambda: run.look(ticket(1).name)["isLost"])


def test_agent_that_left_while_it_waited_takes_no_part(server: tuple[StoreServer, int]) -> None:
    store, port = server
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(json.dumps(["meet", "run", "join", asdict(ticket(0))]).encode() + b"\n")
        await_true(lambda: bool(store.meetings["run"]._joining))
    await_true(lambda: not store.meetings["run"]._joining)
    with ThreadPoolExecutor(2) as threads:
        join = functools.partial(store.meetings["run"].join, is_there=lambda: True)
        rounds = list(threads.map(join, [asdict(ticket(1)), asdict(ticket(2))]))
    assert [each["rank"] for each in rounds if each] == [0, 1]
