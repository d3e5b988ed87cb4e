"""A real API server, the operator as a process with the rights of its manifest, and the tests as its kubelet.

The pods ask for a node that does not exist, so that nothing runs them: tests write their status as a kubelet
would. Any throw-away cluster will do, with or without nodes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import builders
import install
from http_servers import Handler, serve
from kubedet_trainer.contract.times import format_now
from run_operator import OperatorProcess, wait_for
from throwaway import await_definition, run

ROOT = Path(__file__).resolve().parent.parent.parent.parent
CLUSTER = f"kubedet-integration-{os.getpid()}"
NAMESPACE = "kubedet-integration"
ACCOUNT = "kubedet-operator"
_SIDECAR = {"name": "istio-proxy", "ready": True, "restartCount": 0, "image": "istio", "imageID": ""}
NO_NODE = {"spec": {"nodeSelector": {"kubedet.dev/test": "no-such-node"}}}


@dataclass(frozen=True)
class Cluster:
    """kubectl with the rights of the cluster's administrator."""

    kubectl_path: str
    kubeconfig: str

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """The output of one kubectl command; a failure carries what kubectl said."""
        done = subprocess.run(
            [self.kubectl_path, "--kubeconfig", self.kubeconfig, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def apply(self, *documents: dict[str, Any]) -> None:
        """Apply manifests."""
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(documents))

    def get(self, *arguments: str) -> Any:
        """`kubectl get -o json` in the test's namespace; None for an object that is not there."""
        text = self.kubectl("get", "-n", NAMESPACE, "-o", "json", "--ignore-not-found", *arguments)
        return json.loads(text) if text else None

    def items(self, *arguments: str) -> list[dict[str, Any]]:
        """Those of `get`: of an empty list kubectl prints nothing."""
        found: dict[str, Any] = self.get(*arguments) or {"items": []}
        return list(found["items"])


@dataclass
class Job:
    """One DetectionJob, and its pods' kubelet."""

    cluster: Cluster
    name: str

    def status(self) -> dict[str, Any]:
        """The job's status."""
        found: dict[str, Any] = (self.cluster.get("dj", self.name) or {}).get("status", {})
        return found

    def condition(self, kind: str, status: str, reason: str) -> dict[str, Any] | None:
        """The condition of this type, if it has this status and reason."""
        for found in self.status().get("conditions", []):
            if (found["type"], found["status"], found["reason"]) == (kind, status, reason):
                return dict(found)
        return None

    def wait_for_condition(self, kind: str, status: str, reason: str) -> dict[str, Any]:
        """The condition, once it is there."""
        found: dict[str, Any] = wait_for(
            lambda: self.condition(kind, status, reason), f"{kind}={status} {reason} of {self.name}"
        )
        return found

    def pod(self, index: int = 0) -> dict[str, Any] | None:
        """A worker pod."""
        found: dict[str, Any] | None = self.cluster.get("pod", f"{self.name}-worker-{index}")
        return found

    def wait_for_pod(self, index: int = 0, *, other_than: str = "") -> str:
        """The uid of a worker pod, once there is one."""
        pod = wait_for(
            lambda: (found := self.pod(index)) and found["metadata"]["uid"] != other_than and found,
            f"worker {index} of {self.name}",
        )
        return str(pod["metadata"]["uid"])

    def run(self, index: int = 0) -> None:
        """Have the container of a worker run."""
        self._set_state(index, "Running", {"running": {"startedAt": format_now()}}, ready=True)

    def block(self, reason: str, message: str, index: int = 0) -> None:
        """Have a worker wait before its container can start."""
        self._set_state(index, "Pending", {"waiting": {"reason": reason, "message": message}})

    def end(
        self, code: int, message: str = "", *, reason: str = "", index: int = 0, sidecar: bool = False
    ) -> None:
        """Have the container of a worker end; with `sidecar` another one keeps its pod running."""
        ended = {
            "exitCode": code,
            "reason": reason or ("Completed" if code == 0 else "Error"),
            "message": message,
            "startedAt": format_now(),
            "finishedAt": format_now(),
        }
        phase = "Running" if sidecar else "Failed" if code else "Succeeded"
        others = [{**_SIDECAR, "state": {"running": {"startedAt": format_now()}}}] if sidecar else []
        self._set_state(index, phase, {"terminated": ended}, others=others)

    def _set_state(
        self,
        index: int,
        phase: str,
        state: dict[str, Any],
        *,
        ready: bool = False,
        others: Sequence[dict[str, Any]] = (),
    ) -> None:
        container = {"name": "trainer", "ready": ready, "state": state, "restartCount": 0}
        container |= {"image": "kubedet-trainer:0.1.0", "imageID": ""}
        status = {"phase": phase, "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}
        patch = json.dumps({"status": {**status, "containerStatuses": [*others, container]}})
        pod = f"{self.name}-worker-{index}"
        self.cluster.kubectl("patch", "pod", pod, "-n", NAMESPACE, "--subresource=status", "-p", patch)


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A control plane of our own; without the kit for it, the throw-away cluster that KUBECONFIG names."""
    given = os.environ.get("KUBECONFIG")
    kit = request.config.rootpath.parent / "shared" / "cluster"
    if not kit.is_dir() and given:
        yield Cluster("kubectl", given)
        return
    shared: Path = request.getfixturevalue("shared")
    kit = shared / "cluster"
    output = run(kit / "up", "--name", CLUSTER)
    found = re.search(r"KUBECONFIG=(\S+)", output)
    try:
        assert found is not None
        programs = Path(run(kit / "unpack").strip().splitlines()[-1])
        yield Cluster(str(programs / "kubectl"), found.group(1))
    finally:
        run(kit / "down", "--name", CLUSTER)
        if found is not None and not request.session.testsfailed:
            shutil.rmtree(Path(found.group(1)).parent, ignore_errors=True)  # logs that nobody needs


@pytest.fixture(scope="session")
def account(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that makes a kubeconfig of a service account of the test's namespace."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
    cluster.apply(namespace)
    rights = yaml.safe_dump_all(install.read("ServiceAccount", "Role", "RoleBinding"))
    cluster.kubectl("apply", "-n", NAMESPACE, "-f", "-", stdin=rights)
    folder = tmp_path_factory.mktemp("kubeconfigs")

    def make(name: str) -> Path:
        token = cluster.kubectl("create", "token", name, "-n", NAMESPACE, "--duration=1h").strip()
        config = json.loads(cluster.kubectl("config", "view", "--raw", "--flatten", "-o", "json"))
        config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
        path = folder / f"{name}.json"
        path.write_text(json.dumps(config))
        return path

    return make


@pytest.fixture(scope="session")
def operator(
    cluster: Cluster, account: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    """The operator, started before the cluster knows DetectionJobs; it waits for their definition."""
    operator = OperatorProcess(account(ACCOUNT), tmp_path_factory.mktemp("operator") / "log", NAMESPACE)
    cluster.kubectl("delete", "crd", "detectionjobs.kubedet.dev", "--ignore-not-found")
    operator.start()
    try:
        wait_for(lambda: "apply manifests/crds" in operator.log.read_text(), "word of the missing CRD")
        assert not operator.get("/readyz")
        assert operator.is_alive()
        cluster.kubectl("apply", "--server-side", "-f", str(ROOT / "manifests/crds"))
        operator.wait_until_ready()
        yield operator
        assert operator.stop() == 0
        told = [line["message"] for line in operator.lines() if line["severity"] == "error"]
        assert len(told) == 1, told
    finally:
        operator.kill()


@pytest.fixture
def make_job(cluster: Cluster, operator: OperatorProcess) -> Iterator[Callable[..., Job]]:
    """A function that applies a job, which is deleted in the end."""
    made: list[str] = []

    def make(name: str, **spec: Any) -> Job:
        spec["worker"] = {"gpus": 0, "template": NO_NODE, **spec.get("worker", {})}
        made.append(name)
        cluster.apply(builders.make_manifest(name=name, namespace=NAMESPACE, **spec))
        return Job(cluster, name)

    yield make
    cluster.kubectl("delete", "dj", *made, "-n", NAMESPACE, "--ignore-not-found", "--wait=false")


@pytest.fixture
def rank_0() -> Iterator[tuple[int, dict[str, Any]]]:
    """A port that answers for progress as a worker does, and the record that it answers with."""
    record: dict[str, Any] = {}

    class Answers(Handler):
        def answer(self) -> None:
            self.send_response(200 if record else 404)
            self.end_headers()
            self.wfile.write(json.dumps(record).encode())

    with serve(Answers) as port:
        yield port, record


@pytest.fixture
def find_job(cluster: Cluster) -> Callable[[str], Job]:
    """A function that gives a job, which may come later, and its pods' kubelet."""
    return lambda name: Job(cluster, name)


@pytest.fixture(scope="session")
def fake_nodes(cluster: Cluster, request: pytest.FixtureRequest) -> None:
    """Fake nodes, on which the scheduler places pods that run nothing and end as their annotations say."""
    shared: Path = request.getfixturevalue("shared")
    if CLUSTER not in cluster.kubeconfig:
        pytest.skip("the cluster of KUBECONFIG has no fake nodes")
    run(shared / "cluster" / "fake-nodes", "40", "--name", CLUSTER)


@dataclass(frozen=True)
class Fleet:
    """Many jobs in a namespace of their own, whose pods live on fake nodes."""

    cluster: Cluster
    namespace: str

    def build(self, name: str, *, annotations: dict[str, str], **spec: Any) -> dict[str, Any]:
        """A job whose pods carry `annotations`, by which fake nodes treat them."""
        template = {"metadata": {"annotations": annotations}}
        spec["worker"] = {"gpus": 0, "template": template, **spec.get("worker", {})}
        return builders.make_manifest(name=name, namespace=self.namespace, **spec)

    def items(self, kind: str) -> dict[str, dict[str, Any]]:
        """All objects of a kind, by name."""
        text = self.cluster.kubectl("get", kind, "-n", self.namespace, "-o", "json")
        return {item["metadata"]["name"]: item for item in json.loads(text)["items"]}

    def phases(self) -> dict[str, str]:
        """The phase of every job."""
        return {name: job.get("status", {}).get("phase", "") for name, job in self.items("dj").items()}

    def empty(self) -> None:
        """Delete every job, and return when nothing is left."""
        self.cluster.kubectl("delete", "dj", "--all", "-n", self.namespace, "--wait=false")
        # The garbage collector looks for new kinds every 30 s.
        wait_for(lambda: not self.items("pods,services,dj").keys(), "nothing left", seconds=180)


@pytest.fixture
def make_fleet(cluster: Cluster, fake_nodes: None) -> Callable[[str], Fleet]:
    """A function that makes an empty fleet in a namespace."""

    def make(namespace: str) -> Fleet:
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        cluster.kubectl("apply", "--server-side", "-f", str(ROOT / "manifests/crds"))
        await_definition(cluster.kubectl)
        return Fleet(cluster, namespace)

    return make


@pytest.fixture
def make_operator(tmp_path: Path) -> Iterator[Callable[..., OperatorProcess]]:
    """A function that starts a further operator with another kubeconfig."""
    started: list[OperatorProcess] = []

    def make(kubeconfig: Path, *, namespace: str = NAMESPACE, **options: Any) -> OperatorProcess:
        log = tmp_path / f"log-{len(started)}"
        operator = OperatorProcess(kubeconfig, log, namespaces=namespace, **options)
        operator.start()
        started.append(operator)
        return operator

    yield make
    for operator in started:
        operator.kill()


@pytest.fixture
def wait() -> Callable[..., Any]:
    """`wait_for`, for tests, which cannot import this file."""
    return wait_for
