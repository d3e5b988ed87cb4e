"""The real Helm with a real API server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

CLUSTER = f"kubedet-chart-{os.getpid()}"
MONITORS = {
    "PodMonitor": "podmonitors",
    "ServiceMonitor": "servicemonitors",
    "PrometheusRule": "prometheusrules",
}


@dataclass(frozen=True)
class Cluster:
    """kubectl and Helm with the rights of the cluster's administrator."""

    programs: Path
    kubeconfig: str
    namespace: str = "kubedet"

    def kubectl(self, *arguments: object, stdin: str | None = None) -> str:
        """The output of one kubectl command in the namespace of the release."""
        return self._run("kubectl", "-n", self.namespace, *arguments, stdin=stdin)

    def check(self, manifests: str) -> None:
        """Have the API server validate manifests, some of which name a namespace."""
        self._run("kubectl", "apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=manifests)

    def helm(self, *arguments: object) -> str:
        """The output of one Helm command in the namespace of the release."""
        return self._run("helm", "-n", self.namespace, *arguments)

    def _run(self, program: str, *arguments: object, stdin: str | None = None) -> str:
        words = [self.programs / program, "--kubeconfig", self.kubeconfig, *arguments]
        done = subprocess.run([str(word) for word in words], input=stdin, capture_output=True, text=True)
        assert done.returncode == 0, f"{program} {' '.join(map(str, arguments))}: {done.stderr}"
        return done.stdout


@pytest.fixture(scope="session")
def cluster(shared: Path) -> Iterator[Cluster]:
    """A control plane without nodes, with a restricted namespace and the kinds of the Prometheus operator."""
    kit = shared / "cluster"
    found = re.search(r"KUBECONFIG=(\S+)", _run(kit / "up", "--name", CLUSTER))
    try:
        assert found is not None
        cluster = Cluster(Path(_run(kit / "unpack").strip().splitlines()[-1]), found.group(1))
        documents = [_namespace(name) for name in (cluster.namespace, "detectors")]
        documents += [_definition(kind, plural) for kind, plural in MONITORS.items()]
        cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(documents))
        yield cluster
    finally:
        _run(kit / "down", "--name", CLUSTER)
        if found is not None:
            shutil.rmtree(Path(found.group(1)).parent, ignore_errors=True)


def _run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr[-2000:]}"
    return done.stdout


def _namespace(name: str) -> dict[str, object]:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def _definition(kind: str, plural: str) -> dict[str, object]:
    """A kind of the Prometheus operator that takes anything: its own definitions are not here."""
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.monitoring.coreos.com"},
        "spec": {
            "group": "monitoring.coreos.com",
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }
