"""PID 1 before and around the agent; `tests/integration/trainer/test_launch*.py` have the rest."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from kubedet_trainer.settings import read_settings
from kubedet_trainer.worker import endings, launch, processes, programs
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
        "PYTHONPATH": str(tmp_path),
    }


def message(environment: dict[str, str]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(Path(environment["KUBEDET_TERMINATION_MESSAGE_PATH"]).read_text())
    return document


@pytest.fixture
def no_preparation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the process of a preparation that would have nothing to do."""
    monkeypatch.setattr(programs, "prepare_data", lambda *_, **__: None)


@pytest.fixture
def agents(monkeypatch: pytest.MonkeyPatch) -> list[AgentEnding]:
    """Endings that stand in for agents. A test that starts more agents than it lists fails."""
    listed: list[AgentEnding] = []
    monkeypatch.setattr(programs, "run_agent", lambda *_, **__: listed.pop(0))
    return listed


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"KUBEDET_RECIPE": "smoke_faster_rcn"}, 65, "Did you mean 'smoke_faster_rcnn'"),
        ({"KUBEDET_OVERRIDES": '{"optimizer.lrr": "1"}'}, 65, "Did you mean 'optimizer.lr'"),
        ({"KUBEDET_RECIPE": ""}, 2, "KUBEDET_RECIPE: absent"),
        ({"KUBEDET_REPLICAS": "two"}, 2, "KUBEDET_REPLICAS: got 'two'"),
    ],
)
def test_wrong_request_ends_before_any_work(
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str],
    code: int,
    text: str,
) -> None:
    monkeypatch.setattr(programs, "prepare_data", lambda *_, **__: pytest.fail("data was prepared"))
    environment |= changes
    assert launch.run(environment) == code
    assert text in message(environment)["failure"]["message"]


def test_failure_of_the_preparation_ends_with_its_code_before_any_agent(
    environment: dict[str, str], agents: list[AgentEnding], tmp_path: Path
) -> None:
    environment["KUBEDET_DATASET_URI"] = (tmp_path / "nowhere").as_uri()
    assert launch.run(environment) == 66
    failure = message(environment)["failure"]
    assert failure["reason"] == "MissingInput"
    assert "nowhere is not a folder" in failure["message"]


def test_preparation_killed_for_memory_says_so(
    environment: dict[str, str], agents: list[AgentEnding], monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = iter([0, 1])
    monkeypatch.setattr(processes, "count_memory_kills", lambda: next(kills))
    monkeypatch.setattr(endings, "PREPARATION_MODULE", "killed")
    (Path(environment["PYTHONPATH"]) / "killed.py").write_text("import os; os.kill(os.getpid(), 9)")
    assert launch.run(environment) == 137
    failure = message(environment)["failure"]
    assert failure["reason"] == "OOMKilled"
    assert failure["message"].startswith("the preparation of the data: killed by the kernel")


def test_a_gpu_that_does_not_answer_ends_the_worker_before_its_data_are_fetched(
    environment: dict[str, str],
    agents: list[AgentEnding],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(programs, "prepare_data", lambda *_, **__: pytest.fail("data was prepared"))
    monkeypatch.setattr(endings, "FITTING_MODULE", "stuck")
    (Path(environment["PYTHONPATH"]) / "stuck.py").write_text("import time; time.sleep(3600)")
    environment |= {"KUBEDET_GPUS": "1", "KUBEDET_HANG_TIMEOUT_SECONDS": "1"}
    assert launch.run(environment) == 152
    failure = message(environment)["failure"]
    assert failure["reason"] == "Hang"
    assert failure["message"] == (
        "the check of GPU memory: has not ended after 1 s, must within "
        "spec.failurePolicy.hangTimeoutSeconds; the GPU or its driver does not answer"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_preparation_with_nothing_lost(
    environment: dict[str, str], agents: list[AgentEnding], tmp_path: Path, number: signal.Signals
) -> None:
    work = tmp_path / "work"
    environment["KUBEDET_DATASET_URI"] = "synthetic://shapes?images=1000000"

    def stop_once_it_generates() -> None:
        while not any(work.glob("dataset/.*/*/*.jpg")):
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    stop = threading.Thread(target=stop_once_it_generates)
    stop.start()
    assert launch.run(environment) == 143
    stop.join()
    assert message(environment)["failure"]["reason"] == "TerminatedSaved"
    assert not any(work.glob("dataset/.*/*"))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers


def test_progress_says_initializing_and_earlier_records_are_gone(
    environment: dict[str, str], agents: list[AgentEnding], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    for name in ("failures/rank-0.json", "metrics/counter_1.db", "results.json", "dataset/image.jpg"):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text("{}")

    def look(*_: object, **__: object) -> None:
        assert json.loads((work / "progress.json").read_text())["progress"]["stage"] == "Initializing"
        assert sorted(path.name for path in work.rglob("*") if path.is_file()) == [
            "image.jpg",
            "progress.json",
        ]

    monkeypatch.setattr(programs, "prepare_data", look)
    agents.append(AgentEnding(outcome=Outcome.FINISHED))
    assert launch.run(environment) == 0
    assert message(environment).keys() == {"progress"}


@pytest.mark.usefixtures("no_preparation")
def test_results_become_the_termination_message(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def finish(*_: object, **__: object) -> AgentEnding:
        (tmp_path / "work" / "results.json").write_text('{"boxAP": 36.4}')
        return AgentEnding(outcome=Outcome.FINISHED)

    monkeypatch.setattr(programs, "run_agent", finish)
    assert launch.run(environment) == 0
    assert message(environment)["results"]["boxAP"] == 36.4


@pytest.fixture
def store_environment(
    environment: dict[str, str], no_preparation: None, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    monkeypatch.setattr(programs, "POLL_SECONDS", 0.01)
    return {**environment, "KUBEDET_REPLICAS": "2", "KUBEDET_RENDEZVOUS_ENDPOINT": "localhost:1"}


@pytest.mark.parametrize("endpoint", ["localhost:1", "no-such-host.invalid:29400"])
def test_store_that_never_answers_loses_the_rendezvous(
    store_environment: dict[str, str],
    agents: list[AgentEnding],
    monkeypatch: pytest.MonkeyPatch,
    endpoint: str,
) -> None:
    monkeypatch.setattr(launch, "RENDEZVOUS_PATIENCE_SECONDS", 0)
    store_environment["KUBEDET_RENDEZVOUS_ENDPOINT"] = endpoint
    assert launch.run(store_environment) == 150
    failure = message(store_environment)["failure"]
    assert failure["reason"] == "RendezvousLost"
    assert endpoint in failure["message"]


def test_lost_store_starts_the_agent_again_until_it_is_done(
    store_environment: dict[str, str],
    agents: list[AgentEnding],
) -> None:
    lost = AgentEnding(outcome=Outcome.RENDEZVOUS_LOST, joined=True)
    agents += [lost, lost, AgentEnding(outcome=Outcome.FINISHED)]
    with socket.create_server(("localhost", 0)) as store:
        store_environment["KUBEDET_RENDEZVOUS_ENDPOINT"] = f"localhost:{store.getsockname()[1]}"
        assert launch.run(store_environment) == 0
    assert agents == []


@pytest.mark.usefixtures("no_preparation")
def test_killed_agent_starts_again_until_it_is_killed_too_often(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    restarts: list[int] = []

    def crash(*_: object, restarts_so_far: list[int] = restarts, **named: Any) -> AgentEnding:
        restarts_so_far.append(named["restarts"])
        return AgentEnding(outcome=Outcome.CRASHED, exit_code=-signal.SIGKILL)

    monkeypatch.setattr(programs, "run_agent", crash)
    assert launch.run(environment) == 137
    assert restarts == [0, 1, 2, 3]


@pytest.mark.usefixtures("no_preparation")
def test_agent_that_fails_by_itself_is_not_started_again(
    environment: dict[str, str], agents: list[AgentEnding]
) -> None:
    agents.append(AgentEnding(outcome=Outcome.CRASHED, exit_code=1))
    assert launch.run(environment) == 1


def test_store_that_answers_and_fails_is_given_up_after_the_patience(
    store_environment: dict[str, str],
    agents: list[AgentEnding],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "RENDEZVOUS_PATIENCE_SECONDS", 0)
    agents.append(AgentEnding(outcome=Outcome.RENDEZVOUS_LOST))
    with socket.create_server(("localhost", 0)) as store:
        store_environment["KUBEDET_RENDEZVOUS_ENDPOINT"] = f"localhost:{store.getsockname()[1]}"
        assert launch.run(store_environment) == 150


def test_ranks_share_the_processors_unless_told_otherwise(environment: dict[str, str]) -> None:
    processors = len(os.sched_getaffinity(0))
    settings = read_settings({**environment, "KUBEDET_PROCS_PER_REPLICA": "2"})
    assert programs.agent_environment(settings, {})["OMP_NUM_THREADS"] == str(max(1, processors // 2))
    assert programs.agent_environment(settings, {"OMP_NUM_THREADS": "7"})["OMP_NUM_THREADS"] == "7"


def test_ranks_keep_compiled_graphs_in_the_work_directory_unless_told_otherwise(
    environment: dict[str, str],
) -> None:
    settings, name = read_settings(environment), "TORCHINDUCTOR_CACHE_DIR"
    folder = settings.work_directory / "cache" / "compiled"
    assert programs.agent_environment(settings, {})[name] == str(folder)
    assert programs.agent_environment(settings, {name: "/mnt/graphs"})[name] == "/mnt/graphs"


def test_launcher_imports_neither_torch_nor_what_reads_data() -> None:
    code = "import sys, kubedet_trainer.worker.launch; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "cv2"} & set(done.stdout.split())
