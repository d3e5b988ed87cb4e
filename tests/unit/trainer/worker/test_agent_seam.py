"""What `worker/agent.py` and `worker/peers.py` rely on in torch beyond its documented names and signatures.

A test that fails here after an upgrade of torch points at the part of the agent to look at; see "Upgrading
torch" in ARCHITECTURE.md.
"""

from __future__ import annotations

import functools
import gc
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec

import pytest
import torch
from torch.distributed import HashStore, Store  # type: ignore[attr-defined]
from torch.distributed.elastic.agent.server.api import (
    RunResult,
    SimpleElasticAgent,
    WorkerGroup,
    WorkerSpec,
    WorkerState,
)
from torch.distributed.elastic.multiprocessing import (
    DefaultLogsSpecs,
    SignalException,
    Std,
    SubprocessContext,
    start_processes,
)
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler, create_handler

from kubedet_trainer.worker import peers

# The thread of torch's keep-alive timer may itself drop the last reference to it, and cannot join itself.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <finalize object:pytest.PytestUnraisableExceptionWarning"
)
_Arguments = ParamSpec("_Arguments")


def relied_on_by(part: str) -> Callable[[Callable[_Arguments, None]], Callable[_Arguments, None]]:
    """Have a failing test say which part of ours the change in torch breaks, and what to read."""

    def decorate(test: Callable[_Arguments, None]) -> Callable[_Arguments, None]:
        @functools.wraps(test)
        def checked(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> None:
            try:
                test(*arguments, **named)
            except Exception as error:
                raise AssertionError(
                    f"torch {torch.__version__} differs from what {part} relies on ({error!r}); "
                    "read 'Upgrading torch' in ARCHITECTURE.md before you move the upper bound of torch"
                ) from error

        return checked

    return decorate


def handler(store: Store, *, workers: int = 1) -> DynamicRendezvousHandler:
    return create_handler(
        store,
        C10dRendezvousBackend(store, "run"),
        RendezvousParameters(
            backend="c10d",
            endpoint="",
            run_id="run",
            min_nodes=workers,
            max_nodes=workers,
            local_addr="127.0.0.1",
            keep_alive_interval=1,
            keep_alive_max_attempt=3,
            last_call_timeout=1,
        ),
    )


class ScriptedAgent(SimpleElasticAgent):
    """Starts no processes. It notes the calls of torch's loop, and reports the states of a script in turn."""

    def __init__(self, *script: WorkerState | Exception) -> None:
        spec = WorkerSpec(
            role="trainer",
            local_world_size=2,
            entrypoint="python",
            rdzv_handler=handler(HashStore()),
            max_restarts=5,
        )
        super().__init__(spec)
        self.calls: list[str] = []
        self.script = list(script)
        self.groups: list[dict[str, Any]] = []

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self.calls.append("start")
        self.groups.append(
            {
                "ranks": [(worker.local_rank, worker.global_rank) for worker in worker_group.workers],
                "world size": {worker.world_size for worker in worker_group.workers},
                "group rank": worker_group.group_rank,
                "address": worker_group.master_addr,
                "port": worker_group.master_port,
            }
        )
        return {worker.local_rank: object() for worker in worker_group.workers}

    def _stop_workers(self, worker_group: WorkerGroup) -> None:
        self.calls.append("stop")

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        state = self.script.pop(0)
        if isinstance(state, Exception):
            raise state
        done = {worker.global_rank: None for worker in worker_group.workers}
        return RunResult(state=state, return_values=done if state is WorkerState.SUCCEEDED else {})

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int | None = None) -> None:
        self.calls.append(f"shut down by {death_sig.name}")


@relied_on_by("agent._Agent")
def test_an_agent_is_made_by_exactly_four_methods() -> None:
    expected = {"_start_workers", "_stop_workers", "_monitor_workers", "_shutdown"}
    assert SimpleElasticAgent.__abstractmethods__ == expected


@relied_on_by("agent._Agent._start_workers")
def test_a_group_knows_its_ranks_and_where_they_meet_before_it_starts() -> None:
    agent = ScriptedAgent(WorkerState.SUCCEEDED)
    agent.run()
    (group,) = agent.groups
    assert group.pop("port") > 0
    assert group == {
        "ranks": [(0, 0), (1, 1)],
        "world size": {2},
        "group rank": 0,
        "address": "127.0.0.1",
    }


@relied_on_by("agent._Agent._monitor_workers")
def test_loop_restarts_a_failed_group_and_ends_with_a_finished_one() -> None:
    agent = ScriptedAgent(
        WorkerState.HEALTHY, WorkerState.UNHEALTHY, WorkerState.FAILED, WorkerState.SUCCEEDED
    )
    result = agent.run()
    assert result.state is WorkerState.SUCCEEDED
    assert agent.calls == ["start", "stop", "start", "stop", "start", "shut down by SIGTERM"]


@relied_on_by("agent._RanksFailed")
def test_exception_of_the_watch_leaves_the_loop_after_a_shutdown() -> None:
    agent = ScriptedAgent(WorkerState.HEALTHY, LookupError("given up"))
    with pytest.raises(LookupError, match="given up"):
        agent.run()
    assert agent.calls == ["start", "shut down by SIGTERM"]


@relied_on_by("agent.main, which raises SignalException on SIGTERM")
def test_signal_exception_shuts_the_ranks_down_with_that_signal() -> None:
    agent = ScriptedAgent(SignalException("got SIGINT", sigval=signal.SIGINT))
    with pytest.raises(SignalException):
        agent.run()
    assert agent.calls == ["start", "shut down by SIGINT"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., SubprocessContext]]:
    """Starts a process for each piece of code, in a thread, where torch installs no signal handlers."""
    started: list[SubprocessContext] = []

    def begin(*codes: str) -> SubprocessContext:
        ranks = range(len(codes))
        with ThreadPoolExecutor(1) as thread:
            context = thread.submit(
                start_processes,
                name="trainer",
                entrypoint=sys.executable,
                args={rank: ("-c", codes[rank]) for rank in ranks},
                envs={rank: {"RANK": str(rank)} for rank in ranks},
                logs_specs=DefaultLogsSpecs(
                    log_dir=str(tmp_path / "logs"), tee=Std.ALL, local_ranks_filter={0}
                ),
                log_line_prefixes=dict.fromkeys(ranks, ""),
            ).result()
        assert isinstance(context, SubprocessContext)
        started.append(context)
        return context

    yield begin
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # torch leaves the files of their output open
        while started:
            started.pop().close(signal.SIGKILL, 5)
        gc.collect()


@relied_on_by("agent._Agent.rank_endings")
def test_processes_report_their_endings_and_keep_their_last_lines(
    start: Callable[..., SubprocessContext],
) -> None:
    context = start(
        "import time; time.sleep(300)",
        "import os, sys; print(os.environ['RANK'], file=sys.stderr); sys.exit(7)",
    )
    assert context.pids().keys() == {0, 1}
    while (result := context.wait(0)) is None:
        time.sleep(0.05)
    assert result.is_failed()
    assert result.failures[1].exitcode == 7
    assert abs(result.failures[1].timestamp - time.time()) < 60
    assert context.subprocess_handlers[1].proc.poll() == 7
    assert context.subprocess_handlers[0].proc.poll() == -signal.SIGTERM
    assert Path(context.stderrs[1]).read_text() == "1\n"


@relied_on_by("agent._Agent._monitor_workers")
def test_running_processes_give_no_result_and_close_ends_them_by_the_signal(
    start: Callable[..., SubprocessContext],
) -> None:
    context = start("import time; time.sleep(300)")
    assert context.wait(0) is None
    context.close(signal.SIGKILL, 5)
    assert context.subprocess_handlers[0].proc.poll() == -signal.SIGKILL


@relied_on_by("agent._Agent._start_workers")
def test_lines_of_the_first_rank_are_passed_on_as_they_are(
    start: Callable[..., SubprocessContext], capfd: pytest.CaptureFixture[str]
) -> None:
    context = start("print('{\"rank\": 0}')", "print('{\"rank\": 1}')")
    while (result := context.wait(0)) is None:
        time.sleep(0.05)
    assert not result.is_failed()
    assert capfd.readouterr().out.splitlines() == ['{"rank": 0}']


@relied_on_by("peers.Roster")
def test_state_of_the_rendezvous_shows_who_met_and_who_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers, "_LOST_SECONDS", 0)
    store = HashStore()
    first, second = handler(store, workers=2), handler(store, workers=2)
    with ThreadPoolExecutor(2) as threads:
        met = [threads.submit(each.next_rendezvous) for each in (first, second)]
        assert {each.result().rank for each in met} == {0, 1}
    roster = peers.Roster(first)
    roster.note()
    assert not roster.has_lost_any()
    del second, met
    gc.collect()  # ends its keep-alives
    while not roster.has_lost_any():
        first.num_nodes_waiting()
        time.sleep(0.1)


@relied_on_by("peers.Roster")
def test_worker_that_closes_the_rendezvous_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_LOST_SECONDS", -1)
    only = handler(HashStore())
    only.next_rendezvous()
    roster = peers.Roster(only)
    roster.note()
    only.shutdown()
    roster._known |= {"gone"}
    assert not roster.has_lost_any()
