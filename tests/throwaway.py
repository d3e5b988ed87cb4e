"""A throw-away control plane with kubectl and Helm, for tests that drive both as people do."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


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


@contextmanager
def run_cluster(kit: Path, name: str, *options: str) -> Iterator[Cluster]:
    """Run a control plane without nodes, of a name of its own, until the block ends.

    `options` are further ones of the kit's `up`.
    """
    found = re.search(r"KUBECONFIG=(\S+)", run(kit / "up", "--name", name, *options))
    try:
        assert found is not None
        yield Cluster(Path(run(kit / "unpack").strip().splitlines()[-1]), found.group(1))
    finally:
        run(kit / "down", "--name", name)
        if found is not None:
            shutil.rmtree(Path(found.group(1)).parent, ignore_errors=True)


def await_definition(kubectl: Callable[..., str]) -> None:
    """Return once the API server serves DetectionJobs."""
    # Before it has written any condition, `kubectl wait` for one of them is an error.
    for what in ("jsonpath={.status.acceptedNames.kind}=DetectionJob", "condition=Established"):
        kubectl("wait", f"--for={what}", "crd/detectionjobs.kubedet.dev", "--timeout=30s")


def run(*command: object) -> str:
    """The output of a command."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr[-2000:]}"
    return done.stdout


def build_definition(kind: str) -> dict[str, object]:
    """A kind of the Prometheus operator that takes anything: its own definitions are not here."""
    plural = f"{kind.lower()}s"
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
