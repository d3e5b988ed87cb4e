"""The process as a whole: how it ends where it cannot go on."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import api_server
from kubedet_operator import __main__
from kubedet_operator.__main__ import Operator
from kubedet_operator.control import supervision
from kubedet_operator.control.progress import ProgressPoller
from kubedet_operator.settings import OperatorSettings


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    """One of an API server that is away."""
    path = tmp_path / "kubeconfig"
    api_server.write_kubeconfig(path, "http://127.0.0.1:1")
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("which", ["METRICS", "HEALTH"])
def test_a_port_that_is_taken_ends_the_process_with_the_remedy(
    taken: int, kubeconfig: Path, which: str
) -> None:
    ports = {f"KUBEDET_OPERATOR_{name}_PORT": str(free_port()) for name in ("METRICS", "HEALTH")}
    ports[f"KUBEDET_OPERATOR_{which}_PORT"] = str(taken)
    done = subprocess.run(
        [sys.executable, "-m", "kubedet_operator"],
        env={**os.environ, **ports, "KUBECONFIG": str(kubeconfig)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert f"{taken} (" in done.stderr
    assert "set KUBEDET_OPERATOR_METRICS_PORT or _HEALTH_PORT" in done.stderr


async def test_a_task_that_a_bug_ends_is_started_again_while_the_process_continues(
    kubeconfig: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    started = asyncio.Event()

    async def fail_once(*_: Any) -> None:
        if not started.is_set():
            started.set()
            raise ValueError("a bug")
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))
    monkeypatch.setattr(supervision, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(ProgressPoller, "run", fail_once)
    operator = Operator(OperatorSettings(metrics_port=free_port(), health_port=free_port()))
    await operator.run()
    assert "the task progress has ended, which is a bug of the operator" in caplog.text
    assert "ValueError: a bug" in caplog.text
    restarts = operator._metrics.registry.get_sample_value(
        "kubedet_operator_task_restarts_total", {"task": "progress"}
    )
    assert restarts == 1


@pytest.mark.parametrize(
    ("payload", "account"),
    [
        ({"sub": "system:serviceaccount:kubedet:kubedet-operator"}, "kubedet/kubedet-operator"),
        ({}, ""),
        (None, ""),
    ],
)
def test_the_operator_s_account_is_the_one_that_its_token_names(
    payload: dict[str, str] | None, account: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    monkeypatch.setattr(__main__, "TOKEN_FILE", token)
    if payload is not None:
        part = base64.urlsafe_b64encode(json.dumps(payload).encode()).decode().rstrip("=")
        token.write_text(f"header.{part}.signature")
    assert __main__._own_account() == account
