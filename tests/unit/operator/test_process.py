"""The process as a whole: how it ends where it cannot go on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import api_server
from kubedet_operator.__main__ import Operator
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


async def test_a_part_that_ends_by_a_bug_ends_the_process_so_that_another_begins(
    kubeconfig: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: Any) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))
    monkeypatch.setattr(ProgressPoller, "run", fail)
    settings = OperatorSettings(metrics_port=free_port(), health_port=free_port())
    assert await Operator(settings).run() == 1
    assert "this is a bug of the operator" in caplog.text
