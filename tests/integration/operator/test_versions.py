"""Operators of two versions on one cluster: what one of them has left, the other one continues."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import builders
import first_release
from kubedet_operator.api import names, types
from kubedet_operator.children.workers import build_worker
from kubedet_operator.settings import OperatorSettings
from throwaway import await_definition

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

NAMESPACE = "kubedet-versions"
ROOT = Path(__file__).resolve().parent.parent.parent.parent
CRDS = str(ROOT / "manifests/crds")
CRD = "crd/detectionjobs.kubedet.dev"
RUNNING = ("single", "pair", "elastic", "restarted", "lenient")
"""The last one has an address with a password, which this version refuses."""


class Village:
    """A namespace, and the tests as its kubelet."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return str(self.cluster.kubectl(*arguments, "-n", NAMESPACE, stdin=stdin))

    def items(self, kind: str) -> dict[str, dict[str, Any]]:
        found = json.loads(self.kubectl("get", kind, "-o", "json"))["items"]
        return {item["metadata"]["name"]: item for item in found}

    def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        text = self.kubectl("create", "-f", "-", "-o", "json", stdin=json.dumps(manifest))
        created: dict[str, Any] = json.loads(text)
        return created

    def patch_status(self, kind: str, name: str, status: dict[str, Any]) -> None:
        body = json.dumps({"status": status})
        self.kubectl("patch", kind, name, "--subresource=status", "--type=merge", "-p", body)

    def uids(self) -> dict[str, str]:
        """The pods that nobody has told to end."""
        return {
            name: pod["metadata"]["uid"]
            for name, pod in self.items("pods").items()
            if "deletionTimestamp" not in pod["metadata"]
        }

    def phases(self) -> dict[str, str]:
        return {name: job.get("status", {}).get("phase", "") for name, job in self.items("dj").items()}

    def status(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.items("dj")[name]["status"]
        return found

    def condition(self, name: str, kind: str) -> tuple[str, str]:
        found = next(item for item in self.status(name)["conditions"] if item["type"] == kind)
        return found["status"], found["reason"]

    def end(self, pod: str, code: int) -> None:
        ended = {"exitCode": code, "reason": "Error", "message": "", "finishedAt": None}
        self._set_state(pod, "Failed", {"terminated": {**ended, "finishedAt": "2026-01-01T00:00:00Z"}})

    def run(self, pod: str) -> None:
        self._set_state(pod, "Running", {"running": {"startedAt": "2026-01-01T00:00:00Z"}})

    def _set_state(self, pod: str, phase: str, state: dict[str, Any]) -> None:
        container = {"name": "trainer", "ready": phase == "Running", "state": state, "restartCount": 0}
        container |= {"image": "kubedet-trainer:0.1.0", "imageID": ""}
        self.patch_status("pod", pod, {"phase": phase, "containerStatuses": [container]})

    def replay(self, *, without: str = "") -> None:
        """Put into the cluster what the first release left in another one, children with their new owners."""
        recorded = first_release.read_cluster()
        uids: dict[str, str] = {}
        recorded = {
            kind: [item for item in items if not without or without not in item["metadata"]["name"]]
            for kind, items in recorded.items()
        }
        for job in recorded["DetectionJob"]:
            uids[job["metadata"]["uid"]] = self.create(_bare(job))["metadata"]["uid"]
        for child in (*recorded["Service"], *recorded["Pod"]):
            (owner,) = child["metadata"]["ownerReferences"]
            owner["uid"] = uids[owner["uid"]]
            labels = child["metadata"].get("labels") or {}
            child["metadata"]["labels"] = {key: uids.get(value, value) for key, value in labels.items()}
            created = self.create(_bare(child))
            uids[child["metadata"]["uid"]] = created["metadata"]["uid"]
            if child["kind"] == "Pod":
                self.patch_status("pod", child["metadata"]["name"], child["status"])
        for job in recorded["DetectionJob"]:
            text = json.dumps(job["status"])
            for old, new in uids.items():
                text = text.replace(old, new)
            self.patch_status("dj", job["metadata"]["name"], json.loads(text))


def _bare(recorded: dict[str, Any]) -> dict[str, Any]:
    """An object as it is created: without what the API server adds, and in the test's namespace."""
    metadata = recorded["metadata"]
    kept = {
        key: metadata[key] for key in ("name", "labels", "annotations", "ownerReferences") if key in metadata
    }
    spec = {key: value for key, value in recorded["spec"].items() if key not in ("clusterIP", "clusterIPs")}
    return {
        "apiVersion": recorded["apiVersion"],
        "kind": recorded["kind"],
        "metadata": {**kept, "namespace": NAMESPACE},
        "spec": spec,
    }


@pytest.fixture
def village(cluster: Any, wait: Callable[..., Any]) -> Iterator[Village]:
    """A namespace under the CRD of the first release; the present CRD is back in the end."""
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    cluster.kubectl(
        "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=first_release.read_definition()
    )
    await_definition(cluster.kubectl)
    village = Village(cluster)
    wait(
        lambda: not village.items("serviceaccounts").keys() ^ {"default"},
        "the account of the pods",
        seconds=60,
    )
    yield village
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", CRDS)
    village.kubectl("delete", "dj", "--all", "--wait=false")
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
    cluster.kubectl("wait", "--for=delete", f"namespace/{NAMESPACE}", "--timeout=120s")


def _upgrade(village: Village) -> None:
    village.cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", CRDS)
    await_definition(village.cluster.kubectl)


def test_jobs_of_the_first_release_go_on_under_this_one_and_none_restarts(
    village: Village, make_operator: Callable[..., Any], wait: Callable[..., Any]
) -> None:
    village.replay()
    before, statuses = village.uids(), {name: village.status(name) for name in RUNNING}
    _upgrade(village)
    assert {name: village.status(name)["conditions"] for name in RUNNING} == {
        name: status["conditions"] for name, status in statuses.items()
    }
    operator = make_operator(Path(village.cluster.kubeconfig), namespace=NAMESPACE)
    operator.wait_until_ready()
    # What only this version writes says that it has looked at each of them.
    wait(lambda: all("training" in village.status(name) for name in RUNNING), "the take-over", seconds=60)
    assert village.uids() == before
    for name in RUNNING:
        assert village.status(name)["restarts"] == statuses[name]["restarts"]
        assert village.status(name)["attempt"] == statuses[name]["attempt"]
        assert village.condition(name, "Failed") == ("False", "NotFailed")
    # It is in charge of them: a failure is charged once, and only its pod is replaced.
    village.end("pair-worker-1", 139)
    lost = before.pop("pair-worker-1")
    wait(lambda: village.uids().get("pair-worker-1", lost) != lost, "the lost worker's successor", seconds=60)
    assert village.status("pair")["restarts"]["application"] == 1
    assert {name: uid for name, uid in village.uids().items() if name in before} == before
    assert [line for line in operator.lines() if line["severity"] == "error"] == []


def test_this_version_waits_while_a_replica_of_the_first_release_holds_the_lease(
    village: Village, make_operator: Callable[..., Any], wait: Callable[..., Any]
) -> None:
    village.replay()
    _upgrade(village)
    (lease,) = first_release.read_cluster()["Lease"]
    village.create(_bare(lease))
    operator = make_operator(Path(village.cluster.kubeconfig), namespace=NAMESPACE)
    operator.wait_until_ready()
    village.kubectl("delete", "pod", "single-worker-0", "--wait=false", "--grace-period=0", "--force")
    for second in range(10):  # longer than the Lease lasts unless it is renewed
        renewed = {"spec": {"renewTime": f"2026-11-29T00:00:{second:02}.000000Z"}}
        village.kubectl("patch", "lease", names.LEASE, "--type=merge", "-p", json.dumps(renewed))
        assert not operator.metric("kubedet_operator_leader")
        subprocess.run(["sleep", "1.5"], check=True)
    assert "single-worker-0" not in village.uids()
    # The old replica ends, and gives the Lease back as the first release does.
    released = {"spec": {"holderIdentity": "", "leaseDurationSeconds": 1}}
    village.kubectl("patch", "lease", names.LEASE, "--type=merge", "-p", json.dumps(released))
    wait(lambda: "single-worker-0" in village.uids(), "the missing worker", seconds=60)


def test_what_a_newer_operator_wrote_survives_this_one_and_does_no_harm(
    village: Village, make_operator: Callable[..., Any], wait: Callable[..., Any]
) -> None:
    village.cluster.kubectl(
        "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=_newer_definition()
    )
    await_definition(village.cluster.kubectl)
    village.replay(without="lenient")  # the present CRD refuses it
    newer: dict[str, Any] = {"surprise": "cat", "restarts": {"cosmic": 7}, "training": "f" * 16}
    newer["conditions"] = [
        *village.status("pair")["conditions"],
        {
            "type": "Entangled",
            "status": "True",
            "reason": "Spooky",
            "message": "",
            "lastTransitionTime": "2026-11-29T00:00:00Z",
        },
    ]
    wait(lambda: _try(lambda: village.patch_status("dj", "pair", newer)), "the newer status", seconds=30)
    wait(lambda: village.status("pair").get("surprise") == "cat", "the newer status", seconds=30)
    village.kubectl("annotate", "dj,pods", "--all", "kubedet.dev/from-the-future=yes")
    village.kubectl("patch", "dj", "single", "--type=merge", "-p", '{"spec": {"novelty": "x"}}')
    observed = village.items("dj")["single"]["metadata"]["generation"]
    village.patch_status("dj", "single", {"observedGeneration": observed})
    before = village.uids()

    operator = make_operator(Path(village.cluster.kubeconfig), namespace=NAMESPACE)
    operator.wait_until_ready()
    wait(lambda: "training" in village.status("restarted"), "the take-over", seconds=60)
    wait(lambda: village.condition("single", "Degraded") == ("True", "InvalidSpec"), "word of the field")
    village.end("pair-worker-1", 139)
    wait(lambda: village.status("pair")["restarts"]["application"] == 1, "a write", seconds=60)
    status = village.status("pair")
    assert (status["surprise"], status["restarts"]["cosmic"]) == ("cat", 7)
    assert village.condition("pair", "Entangled") == ("True", "Spooky")
    del before["pair-worker-1"]
    assert {name: uid for name, uid in village.uids().items() if name in before} == before
    assert village.condition("single", "Failed")[0] == "False"
    assert village.status("single")["phase"] == "Running"


def _try(act: Callable[[], object]) -> bool:
    """Whether it worked: an API server takes a moment to apply a changed definition."""
    try:
        act()
    except RuntimeError:
        return False
    return True


def _newer_definition() -> str:
    """The present CRD with fields that this version does not know."""
    document = yaml.safe_load((ROOT / "manifests/crds/kubedet.dev_detectionjobs.yaml").read_text())
    for version in document["spec"]["versions"]:
        parts = version["schema"]["openAPIV3Schema"]["properties"]
        parts["status"]["properties"]["surprise"] = {"type": "string"}
        parts["status"]["properties"]["restarts"]["properties"]["cosmic"] = {"type": "integer"}
        parts["spec"]["properties"]["novelty"] = {"type": "string"}
    return yaml.safe_dump(document)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The source of the first release."""
    found = first_release.extract_source(tmp_path / "first-release")
    if found is None:
        pytest.skip("this clone has no history; the recorded objects of the first release stand for it")
    return found


def test_a_rolling_upgrade_and_a_roll_back_with_the_real_first_release_restart_nothing(
    village: Village, source: Path, make_operator: Callable[..., Any], wait: Callable[..., Any]
) -> None:
    kubeconfig = Path(village.cluster.kubeconfig)
    path = {"PYTHONPATH": f"{source / 'operator'}{os.pathsep}{source / 'trainer'}"}
    old = make_operator(kubeconfig, namespace=NAMESPACE, environment=path)
    old.wait_until_ready()
    worker = {"replicas": 2, "gpus": 0, "template": {"spec": {"nodeSelector": {"kubedet.dev/test": "none"}}}}
    for name in ("pair", "other"):
        village.create(builders.make_manifest(name=name, namespace=NAMESPACE, worker=worker))
    wait(lambda: len(village.uids()) == 6, "the pods", seconds=60)
    for pod in village.uids():
        village.run(pod)
    wait(lambda: set(village.phases().values()) == {"Running"}, "that all run", seconds=60)
    before = village.uids()

    _upgrade(village)
    new = make_operator(kubeconfig, namespace=NAMESPACE)
    new.wait_until_ready()
    assert old.metric("kubedet_operator_leader")
    assert not new.metric("kubedet_operator_leader")
    assert old.stop() == 0
    wait(
        lambda: all("training" in village.status(name) for name in ("pair", "other")),
        "a take-over",
        seconds=60,
    )
    assert village.uids() == before

    back = make_operator(kubeconfig, namespace=NAMESPACE, environment=path)
    back.wait_until_ready()
    assert new.stop() == 0
    wait(lambda: back.metric("kubedet_operator_leader"), "the roll-back", seconds=60)
    village.end("pair-worker-1", 139)
    lost = before.pop("pair-worker-1")
    wait(lambda: village.uids().get("pair-worker-1", lost) != lost, "the lost worker's successor", seconds=60)
    assert {name: uid for name, uid in village.uids().items() if name in before} == before
    assert village.status("pair")["restarts"]["application"] == 1
    assert village.status("other")["restarts"]["total"] == 0


def test_a_trainer_of_the_first_release_understands_what_this_operator_asks_for(source: Path) -> None:
    spec: dict[str, Any] = {
        "worker": {"replicas": 2, "gpus": 0},
        "overrides": {"optimizer.lr": "0.01"},
        "checkpoint": {"storageUri": "s3://c/x", "keepBest": {}},
        "evaluation": {"stopAfter": 3},
    }
    job = types.parse_job(builders.make_manifest(**spec))
    container = build_worker(job, 1, attempt=3, settings=OperatorSettings())["spec"]["containers"][0]
    asked = {item["name"]: item["value"] for item in container["env"] if "value" in item}
    program = (
        "import json, os; from dataclasses import asdict; "
        "from kubedet_trainer.settings import read_settings; "
        "print(json.dumps(asdict(read_settings(os.environ)), default=str))"
    )
    environment = {**asked, "PATH": os.environ["PATH"], "PYTHONPATH": str(source / "trainer")}
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    read = json.loads(found.stdout)
    assert (read["recipe"], read["attempt"], read["replica_index"]) == ("smoke_faster_rcnn", 3, 1)
    assert read["overrides"] == {"optimizer.lr": "0.01"}
    assert read["checkpoint"]["keep_best_metric"] == "boxAP"
