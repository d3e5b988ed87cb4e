"""PID 1 before and around the agent; `tests/integration/trainer/test_launch.py` has the rest."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kubedet_trainer.errors import CredentialsRefused, StorageUnreachable
from kubedet_trainer.settings import read_settings
from kubedet_trainer.worker import launch
from kubedet_trainer.worker.endings import AgentEnding, Outcome


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        "KUBEDET_RECIPE": "smoke_faster_rcnn",
        "KUBEDET_DATASET_URI": tmp_path.as_uri(),
        "KUBEDET_CHECKPOINT_URI": tmp_path.as_uri(),
        "KUBEDET_WORK_DIRECTORY": str(tmp_path / "work"),
        "KUBEDET_METRICS_PORT": "0",
        "KUBEDET_TERMINATION_MESSAGE_PATH": str(tmp_path / "message"),
    }


def message(environment: dict[str, str]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(Path(environment["KUBEDET_TERMINATION_MESSAGE_PATH"]).read_text())
    return document


Prepare = Callable[[Callable[[], object]], None]


@pytest.fixture
def prepare(monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """Replace the preparation of the data set."""

    def replace(action: Callable[[], object]) -> None:
        monkeypatch.setattr("kubedet_trainer.data.prepare.prepare_dataset", lambda *_: action())

    return replace


@pytest.fixture
def agents(monkeypatch: pytest.MonkeyPatch) -> list[AgentEnding]:
    """Endings that stand in for agents; a test fails where more are started than it lists."""
    endings: list[AgentEnding] = []
    monkeypatch.setattr(launch, "_run_agent", lambda *_: endings.pop(0))
    return endings


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"KUBEDET_RECIPE": "smoke_faster_rcn"}, 65, "Did you mean 'smoke_faster_rcnn'"),
        ({"KUBEDET_OVERRIDES": '{"optimizer.lrr": "1"}'}, 65, "Did you mean 'optimizer.lr'"),
        ({"KUBEDET_RECIPE": ""}, 2, "KUBEDET_RECIPE: absent"),
        ({"KUBEDET_REPLICAS": "two"}, 2, "KUBEDET_REPLICAS: got 'two'"),
    ],
)
def test_what_is_asked_wrongly_ends_before_any_work(
    environment: dict[str, str],
    prepare: Prepare,
    changes: dict[str, str],
    code: int,
    text: str,
) -> None:
    prepare(lambda: pytest.fail("data was prepared"))
    environment |= changes
    assert launch.run(environment) == code
    assert text in message(environment)["failure"]["message"]


@pytest.mark.parametrize(
    ("error", "code"), [(CredentialsRefused("refused"), 77), (StorageUnreachable("silent"), 154)]
)
def test_errors_of_the_data_set_end_with_their_code(
    environment: dict[str, str],
    prepare: Prepare,
    error: Exception,
    code: int,
) -> None:
    def refuse() -> None:
        raise error

    prepare(refuse)
    assert launch.run(environment) == code
    assert message(environment)["failure"]["reason"] == type(error).__name__


def test_an_unexpected_error_leaves_its_traceback(environment: dict[str, str], prepare: Prepare) -> None:
    prepare(lambda: 1 // 0)
    assert launch.run(environment) == 1
    failure = message(environment)["failure"]
    assert failure["reason"] == "ZeroDivisionError"
    assert failure["lastLines"][-1].startswith("ZeroDivisionError")


def test_sigterm_ends_the_preparation_at_once_with_nothing_lost(
    environment: dict[str, str], prepare: Prepare, agents: list[AgentEnding]
) -> None:
    def terminate() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(60)
        except Exception:
            pytest.fail("the stop was taken for an error")

    handler = signal.getsignal(signal.SIGTERM)
    prepare(terminate)
    assert launch.run(environment) == 143
    assert message(environment)["failure"]["reason"] == "TerminatedSaved"
    assert signal.getsignal(signal.SIGTERM) is handler


def test_progress_says_initializing_and_earlier_records_are_gone(
    environment: dict[str, str],
    prepare: Prepare,
    agents: list[AgentEnding],
    tmp_path: Path,
) -> None:
    work = tmp_path / "work"
    for name in ("failures/rank-0.json", "metrics/counter_1.db", "results.json", "dataset/image.jpg"):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text("{}")

    def look() -> None:
        assert json.loads((work / "progress.json").read_text())["progress"]["stage"] == "Initializing"
        assert sorted(path.name for path in work.rglob("*") if path.is_file()) == [
            "image.jpg",
            "progress.json",
        ]

    prepare(look)
    agents.append(AgentEnding(outcome=Outcome.FINISHED))
    assert launch.run(environment) == 0
    assert message(environment).keys() == {"progress"}


def test_results_become_the_termination_message(
    environment: dict[str, str],
    prepare: Prepare,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def finish(*_: object) -> AgentEnding:
        (tmp_path / "work" / "results.json").write_text('{"boxAP": 36.4}')
        return AgentEnding(outcome=Outcome.FINISHED)

    prepare(lambda: None)
    monkeypatch.setattr(launch, "_run_agent", finish)
    assert launch.run(environment) == 0
    assert message(environment)["results"]["boxAP"] == 36.4


@pytest.fixture
def store_environment(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr(launch, "_POLL_SECONDS", 0.01)
    return {**environment, "KUBEDET_REPLICAS": "2", "KUBEDET_RENDEZVOUS_ENDPOINT": "localhost:1"}


@pytest.mark.parametrize("endpoint", ["localhost:1", "no-such-host.invalid:29400"])
def test_store_that_never_answers_loses_the_rendezvous(
    store_environment: dict[str, str],
    prepare: Prepare,
    agents: list[AgentEnding],
    monkeypatch: pytest.MonkeyPatch,
    endpoint: str,
) -> None:
    monkeypatch.setattr(launch, "RENDEZVOUS_PATIENCE_SECONDS", 0)
    prepare(lambda: None)
    store_environment["KUBEDET_RENDEZVOUS_ENDPOINT"] = endpoint
    assert launch.run(store_environment) == 150
    failure = message(store_environment)["failure"]
    assert failure["reason"] == "RendezvousLost"
    assert endpoint in failure["message"]


def test_lost_store_starts_the_agent_again_until_it_is_done(
    store_environment: dict[str, str],
    prepare: Prepare,
    agents: list[AgentEnding],
) -> None:
    prepare(lambda: None)
    lost = AgentEnding(outcome=Outcome.RENDEZVOUS_LOST, joined=True)
    agents += [lost, lost, AgentEnding(outcome=Outcome.FINISHED)]
    with socket.create_server(("localhost", 0)) as store:
        store_environment["KUBEDET_RENDEZVOUS_ENDPOINT"] = f"localhost:{store.getsockname()[1]}"
        assert launch.run(store_environment) == 0
    assert agents == []


def test_store_that_answers_and_fails_is_given_up_after_the_patience(
    store_environment: dict[str, str],
    prepare: Prepare,
    agents: list[AgentEnding],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepare(lambda: None)
    monkeypatch.setattr(launch, "RENDEZVOUS_PATIENCE_SECONDS", 0)
    agents.append(AgentEnding(outcome=Outcome.RENDEZVOUS_LOST))
    with socket.create_server(("localhost", 0)) as store:
        store_environment["KUBEDET_RENDEZVOUS_ENDPOINT"] = f"localhost:{store.getsockname()[1]}"
        assert launch.run(store_environment) == 150


def test_ranks_share_the_processors_unless_told_otherwise(environment: dict[str, str]) -> None:
    processors = len(os.sched_getaffinity(0))
    settings = read_settings({**environment, "KUBEDET_PROCS_PER_REPLICA": "2"})
    assert launch._agent_environment(settings, {})["OMP_NUM_THREADS"] == str(max(1, processors // 2))
    assert launch._agent_environment(settings, {"OMP_NUM_THREADS": "7"})["OMP_NUM_THREADS"] == "7"


def test_launcher_imports_no_torch() -> None:
    code = "import sys, kubedet_trainer.worker.launch; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
