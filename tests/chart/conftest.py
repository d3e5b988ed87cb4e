"""The real Helm with a real API server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from throwaway import Cluster, build_definition, run_cluster

CLUSTER = f"kubedet-chart-{os.getpid()}"
MONITORS = ("PodMonitor", "PrometheusRule")


@pytest.fixture(scope="session")
def cluster(shared: Path) -> Iterator[Cluster]:
    """A control plane without nodes, with a restricted namespace and the kinds of the Prometheus operator."""
    with run_cluster(shared / "cluster", CLUSTER) as cluster:
        documents = [_namespace(name) for name in (cluster.namespace, "detectors")]
        documents += [build_definition(kind) for kind in MONITORS]
        cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(documents))
        yield cluster


def _namespace(name: str) -> dict[str, object]:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
