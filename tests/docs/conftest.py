"""Where the commands of the documentation are typed: a checkout, and a cluster with fake GPU nodes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

import markdown
import throwaway
from worker_processes import WorkerProcesses

NODES = 5
MONITORS = ("PodMonitor", "PrometheusRule")


@dataclass(frozen=True)
class Desk:
    """A folder that looks like a checkout, and an environment in which the programs are found."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def type(self, script: str, **variables: str) -> str:
        """The output of a bash script, errors included. The script ends with the first command that fails."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env={**self.environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout[-5000:]}"
        return done.stdout

    def run_workers(self) -> WorkerProcesses:
        """Runs the workers of jobs that `doc_commands.RUN` names."""

        def kubectl(*words: str) -> str:
            done = subprocess.run(
                ["kubectl", "--namespace", "kubedet", *words],
                env=self.environment,
                capture_output=True,
                text=True,
                check=True,
            )
            return done.stdout

        return WorkerProcesses(kubectl, folder=self.folder / "workers", environment=self.environment)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A desk without a cluster."""
    for path in markdown.ROOT.iterdir():
        if not path.name.startswith(".") and path.name not in ("build", "runs"):
            (tmp_path / path.name).symlink_to(path)
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    sources = f"{markdown.ROOT / 'operator'}:{markdown.ROOT / 'trainer'}"
    environment = {"PATH": programs, "PYTHONPATH": sources, "VENV": sys.prefix, "OMP_NUM_THREADS": "1"}
    return Desk(tmp_path, {**os.environ, **environment})


@pytest.fixture(scope="session")
def cluster(shared: Path) -> Iterator[throwaway.Cluster]:
    """A control plane with fake nodes of 8 GPUs, and the kinds of the Prometheus operator."""
    name = f"kubedet-docs-{os.getpid()}"
    with throwaway.run_cluster(shared / "cluster", name) as cluster:
        throwaway.run(shared / "cluster" / "fake-nodes", "--name", name, NODES)
        documents = [throwaway.build_definition(kind) for kind in MONITORS]
        cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(documents))
        yield cluster


@pytest.fixture
def cluster_desk(desk: Desk, cluster: throwaway.Cluster) -> Desk:
    """A desk at the cluster. Its kubeconfig is a copy: commands change the current namespace."""
    kubeconfig = str(shutil.copy(cluster.kubeconfig, desk.folder / "kubeconfig"))
    environment = {**desk.environment, "KUBECONFIG": kubeconfig, "NODE": "fake-0"}
    environment["PATH"] = f"{cluster.programs}:{environment['PATH']}"
    return Desk(desk.folder, environment)


@contextmanager
def _operator(desk: Desk) -> Iterator[None]:
    """The operator as a process beside the cluster: the fake nodes do not run those of the release."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    settings = {"NAMESPACES": "kubedet", "LEASE_NAMESPACE": "kubedet", "METRICS_PORT": port}
    variables = {f"KUBEDET_OPERATOR_{name}": value for name, value in settings.items()}
    with (desk.folder / "operator.log").open("wb") as log:
        command = [sys.executable, "-m", "kubedet_operator"]
        process = subprocess.Popen(command, env={**desk.environment, **variables}, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture
def run_operator() -> Any:
    """A context in which the operator acts for a desk's cluster."""
    return _operator
