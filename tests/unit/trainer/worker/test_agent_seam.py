"""What `worker/agent.py` and `worker/peers.py` rely on in torch beyond its documented names and signatures.

A test that fails here after an upgrade of torch points at the part of the agent to look at; see "Upgrading
torch" in ARCHITECTURE.md.
"""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable
from typing import Any, ParamSpec

import pytest
import torch
from torch.distributed.elastic.agent.server.api import (
    RunResult,
    SimpleElasticAgent,
    WorkerGroup,
    WorkerSpec,
    WorkerState,
)
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.rendezvous import RendezvousHandler

from kubedet_trainer.settings import read_settings
from kubedet_trainer.worker import peers

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


ALONE = {
    "KUBEDET_RECIPE": "smoke_faster_rcnn",
    "KUBEDET_DATASET_URI": "synthetic://shapes",
    "KUBEDET_CHECKPOINT_URI": "file:///nowhere",
}


class ScriptedAgent(SimpleElasticAgent):
    """Starts no processes. It notes the calls of torch's loop, and reports the states of a script in turn."""

    def __init__(self, *script: WorkerState | Exception) -> None:
        spec = WorkerSpec(
            role="trainer",
            local_world_size=2,
            entrypoint="python",
            rdzv_handler=peers.build_rendezvous(read_settings(ALONE)),
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


@relied_on_by("peers.Rendezvous")
def test_a_rendezvous_of_ones_own_is_complete_without_private_names() -> None:
    assert RendezvousHandler.__abstractmethods__ == {
        "get_backend",
        "get_run_id",
        "is_closed",
        "next_rendezvous",
        "num_nodes_waiting",
        "set_closed",
        "shutdown",
    }
