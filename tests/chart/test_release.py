"""The life of a release: what is installed, what an upgrade leaves alone, what an uninstall leaves behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import builders
import install
from kubedet_operator.commands.jobs import render
from throwaway import await_definition

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parent.parent.parent
CHART = ROOT / "charts" / "kubedet"
CI = sorted((CHART / "ci").glob("*-values.yaml"))
CRD = "crd/detectionjobs.kubedet.dev"
NO_NODE = {"spec": {"nodeSelector": {"kubedet.dev/test": "no-such-node"}}}
ACCOUNT = "kubedet-operator"
OURS = ("pods", "-l", "app.kubernetes.io/component in (operator, trial-store)")
"""The pods of a release, not of jobs."""
PRIORITY = {
    "apiVersion": "scheduling.k8s.io/v1",
    "kind": "PriorityClass",
    "metadata": {"name": "research"},
    "value": 1,
}


def wait_for(look: Callable[[], Any], what: str, *, seconds: float = 30) -> Any:
    """What `look` returns once that is true."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, f"no {what} within {seconds} s"
        time.sleep(0.2)
    return found


@pytest.fixture(autouse=True)
def _clean(cluster: Any) -> Iterator[None]:
    """Leave neither a release nor jobs to the next test."""
    yield
    cluster.helm("uninstall", "kubedet", "--ignore-not-found", "--wait")
    cluster.kubectl("delete", CRD, "--ignore-not-found")


@pytest.fixture
def start_operator(cluster: Any, tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """A function that starts the operator with the rights of the release's account, and returns its log."""
    started: list[subprocess.Popen[bytes]] = []

    def start(**settings: str) -> Path:
        token = cluster.kubectl("create", "token", ACCOUNT, "--duration=1h").strip()
        config = json.loads(cluster.kubectl("config", "view", "--raw", "--flatten", "-o", "json"))
        config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
        kubeconfig, log = tmp_path / "kubeconfig", tmp_path / "log"
        kubeconfig.write_text(json.dumps(config))
        environment = {**os.environ, **settings, "KUBECONFIG": str(kubeconfig)}
        environment["KUBEDET_OPERATOR_LEASE_NAMESPACE"] = cluster.namespace
        with socket.socket() as probe, socket.socket() as other:
            probe.bind(("127.0.0.1", 0))
            other.bind(("127.0.0.1", 0))
            environment["KUBEDET_OPERATOR_METRICS_PORT"] = str(probe.getsockname()[1])
            environment["KUBEDET_OPERATOR_HEALTH_PORT"] = str(other.getsockname()[1])
        command = [sys.executable, "-m", "kubedet_operator"]
        with log.open("wb") as output:
            started.append(subprocess.Popen(command, env=environment, stdout=output, stderr=output))
        return log

    yield start
    for process in started:
        process.terminate()
        process.wait(timeout=20)


@pytest.mark.parametrize("file", CI, ids=lambda file: file.stem)
def test_every_ci_file_is_valid_and_installs(cluster: Any, file: Path) -> None:
    values = yaml.safe_load(file.read_text())
    cluster.helm("lint", "--strict", CHART, "--values", file)
    cluster.check(cluster.helm("template", "kubedet", CHART, "--values", file))
    cluster.kubectl("create", "serviceaccount", "operator")
    try:
        told = cluster.helm("install", "kubedet", CHART, "--values", file)
        # The namespace is a restricted one: no pod comes into being that is not.
        deployments = _items(cluster, "deployments")
        wanted = sum(deployment["spec"]["replicas"] for deployment in deployments)
        wait_for(lambda: len(_items(cluster, *OURS)) == wanted, f"{wanted} pods")
    finally:
        cluster.kubectl("delete", "serviceaccount", "operator")
    _check_commands(told, values)


def _check_commands(told: str, values: dict[str, Any]) -> None:
    """The job of the notes is one, in a namespace that is served."""
    job = re.search(r"kubectl -n (\S+) apply -f - <<'EOF'\n(.*?)\n +EOF", told, re.DOTALL)
    assert job is not None, told
    assert job[1] == (values["operator"].get("namespaces") or ["kubedet"])[0]
    assert yaml.safe_load(job[2])["kind"] == "DetectionJob"


def test_the_notes_give_commands_that_work(cluster: Any) -> None:
    told = cluster.helm("install", "kubedet", CHART, "--set", "trialStore.enabled=true")
    await_definition(cluster.kubectl)
    job = re.search(r"apply -f - <<'EOF'\n(.*?)\n +EOF", told, re.DOTALL)
    assert job is not None
    cluster.kubectl("apply", "-f", "-", stdin=job[1])
    name = yaml.safe_load(job[1])["metadata"]["name"]
    commands = re.findall(r"^ +kubectl -n kubedet (get dj.*|rollout .*)$", told, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        if "rollout" in command:
            command += " --watch=false"  # nothing runs the pods here
        cluster.kubectl(*command.replace("'", "").split())
    assert f"dj/{name}" in told
    secret = json.loads(cluster.kubectl("get", "secret", "kubedet-trial-store", "-o", "json"))["data"]
    assert set(secret) == {"accessKey", "secretKey", "endpoint"}
    cluster.helm("upgrade", "kubedet", CHART, "--reuse-values")
    again = json.loads(cluster.kubectl("get", "secret", "kubedet-trial-store", "-o", "json"))["data"]
    assert again == secret


def test_install_yaml_is_what_helm_renders(cluster: Any) -> None:
    rendered = list(yaml.safe_load_all(cluster.helm("template", "kubedet", CHART)))
    assert sorted(install.read(), key=_key) == sorted(rendered, key=_key)
    cluster.kubectl("apply", "--server-side", "-f", install.INSTALL)
    wait_for(lambda: len(_items(cluster, *OURS)) == 2, "2 pods")
    await_definition(cluster.kubectl)
    cluster.helm("install", "kubedet", CHART, "--take-ownership")


def _key(document: dict[str, Any]) -> tuple[str, str]:
    return document["kind"], document["metadata"]["name"]


def test_the_cluster_takes_every_sample_and_its_pods(cluster: Any) -> None:
    cluster.helm("install", "kubedet", CHART)
    await_definition(cluster.kubectl)
    cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(PRIORITY))
    for sample in sorted((ROOT / "manifests" / "samples").glob("*.yaml")):
        cluster.check(sample.read_text())
        rendered = CliRunner().invoke(render, ["--namespace", cluster.namespace, str(sample)])
        cluster.check(rendered.stdout)


def test_upgrade_and_uninstall_leave_running_jobs_alone(
    cluster: Any, start_operator: Callable[..., Path], tmp_path: Path
) -> None:
    cluster.helm("install", "kubedet", _make_older(tmp_path))
    await_definition(cluster.kubectl)
    log = start_operator(KUBEDET_OPERATOR_NAMESPACES=cluster.namespace)
    _apply_job(cluster, cluster.namespace)
    before = wait_for(lambda: _uids(cluster), "a job with its pods")
    assert _columns(cluster) == ["Phase"]

    cluster.helm("upgrade", "kubedet", CHART, "--set", "operator.replicas=3")
    assert len(_columns(cluster)) > 5
    (deployment,) = _items(cluster, "deployments")
    assert deployment["spec"]["replicas"] == 3
    assert _uids(cluster) == before
    _check_no_complaint(log)

    cluster.helm("uninstall", "kubedet", "--wait")
    assert _items(cluster, "deployments") == []
    assert _uids(cluster) == before

    cluster.helm("install", "kubedet", CHART, "--set", "crds.keep=false")
    assert _uids(cluster) == before
    cluster.helm("uninstall", "kubedet")
    wait_for(lambda: not cluster.kubectl("get", CRD, "--ignore-not-found"), "end of the definition")


def test_a_cluster_role_is_enough_for_every_namespace(
    cluster: Any, start_operator: Callable[..., Path]
) -> None:
    cluster.helm("install", "kubedet", CHART, "--set", "operator.scope=Cluster")
    await_definition(cluster.kubectl)
    log = start_operator()
    _apply_job(cluster, "detectors")
    wait_for(lambda: len(_items(cluster, "pods", "-n", "detectors")) == 3, "two workers and their rendezvous")
    _check_no_complaint(log)


def _make_older(tmp_path: Path) -> Path:
    """The release before: the chart under an older version, with a definition that shows less."""
    chart = tmp_path / "kubedet"
    shutil.copytree(CHART, chart)
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    about |= {"version": "0.0.9", "appVersion": "0.0.9"}
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about))
    path = chart / "files" / "crds" / "kubedet.dev_detectionjobs.yaml"
    definition = yaml.safe_load(path.read_text())
    for version in definition["spec"]["versions"]:
        version["additionalPrinterColumns"] = version["additionalPrinterColumns"][:1]
    path.write_text(yaml.safe_dump(definition))
    return chart


def _apply_job(cluster: Any, namespace: str) -> None:
    worker = {"gpus": 0, "replicas": 2, "template": NO_NODE}
    job = builders.make_manifest(name="running", namespace=namespace, worker=worker)
    cluster.kubectl("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(job))


def _items(cluster: Any, kinds: str, *arguments: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads(cluster.kubectl("get", kinds, "-o", "json", *arguments))["items"]
    return items


def _uids(cluster: Any) -> dict[str, str]:
    """The uids of the job and of its children, once all of them are there."""
    items = [*_items(cluster, "dj"), *_items(cluster, "pods,services", "-l", "kubedet.dev/job-name=running")]
    return {item["metadata"]["name"]: item["metadata"]["uid"] for item in items if len(items) == 5}


def _columns(cluster: Any) -> list[str]:
    definition = json.loads(cluster.kubectl("get", CRD, "-o", "json"))
    return [column["name"] for column in definition["spec"]["versions"][0]["additionalPrinterColumns"]]


def _check_no_complaint(log: Path) -> None:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["message"] for line in lines if line["severity"] not in ("info", "debug")] == []
