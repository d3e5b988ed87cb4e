"""An API server that a test has in its hand, and the operator's own client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import api_server
from api_server import ApiServer
from kubedet_operator.cluster.client import Cluster
from kubedet_operator.telemetry.metrics import Metrics


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    async with api_server.serve() as server:
        yield server


@pytest.fixture
async def client(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Cluster]:
    kubeconfig = tmp_path / "kubeconfig"
    api_server.write_kubeconfig(kubeconfig, server.url)
    monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))
    cluster = Cluster(Metrics(), may_write=lambda: False)  # a standby watches as well
    yield cluster
    await cluster.close()
