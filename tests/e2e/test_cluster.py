"""A DetectionJob on real nodes learns real photographs, survives the loss of a worker, reports its row."""

from __future__ import annotations

import functools
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from cluster_jobs import NAMESPACE, condition_of, status_of, wait_for, worker_process

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

RECIPE = "smoke_faster_rcnn"
OPERATOR_SERIES = {
    "kubedet_operator_jobs",
    "kubedet_operator_restarts",
    "kubedet_operator_reconcile_duration_seconds",
    "kubedet_operator_queue_depth",
    "kubedet_job_info",
    "kubedet_job_progress_ratio",
}
TRAINER_SERIES = {
    "kubedet_trainer_iterations",
    "kubedet_trainer_images",
    "kubedet_trainer_iteration_duration_seconds",
    "kubedet_trainer_data_wait_seconds",
    "kubedet_trainer_loss",
    "kubedet_trainer_learning_rate",
    "kubedet_trainer_checkpoint_save_seconds",
    "kubedet_trainer_last_step_timestamp_seconds",
}


def test_broken_jobs_say_what_to_do(operator: Any, apply_job: Callable[..., str]) -> None:
    expected = {
        apply_job("wrong-recipe", RECIPE="smoke_faster_rcn"): ("Failed", "smoke_faster_rcnn"),
        apply_job("missing-data", DATASET="s3://datasets/nowhere"): ("Failed", "s3://datasets/nowhere"),
        apply_job("wrong-credentials", SECRET="wrong"): ("Failed", "credentials"),
        apply_job("missing-image", IMAGE="kubedet-trainer:absent"): ("Initialized", "kubedet-trainer:absent"),
        apply_job("small-memory", RESOURCES="{limits: {memory: 600Mi}}", MORE="backoffLimit: 0"): (
            "Failed",
            "OOMKilled",
        ),
    }
    for name, (condition, word) in expected.items():
        status = "True" if condition == "Failed" else "False"
        found = wait_for(functools.partial(condition_of, operator, name, condition, status, word), 180, name)
        print(f"\n{name}: {condition}={status} {found['reason']}: {found['message']}")
    operator.picture("broken jobs")


def test_a_job_survives_the_loss_of_a_worker(
    operator: Any, object_store: Any, apply_job: Callable[..., str]
) -> None:
    name = apply_job("bccd", REPLICAS=2)
    wait_for(lambda: operator.get("pods", "-l", f"kubedet.dev/job-name={name}")["items"], 60, "pods")
    operator.picture("before")
    wait_for(
        lambda: status_of(operator, name).get("checkpoint", {}).get("iteration", 0) >= 20, 300, "a checkpoint"
    )
    _check_metrics(operator, name)

    killed_at = time.time()
    os.kill(worker_process(name, replica=1), signal.SIGKILL)
    wait_for(lambda: status_of(operator, name)["restarts"]["application"] >= 1, 60, "the loss in the status")
    operator.picture("during")
    recovered = wait_for(lambda: _last_step(operator, name, after=killed_at), 180, "the next training step")
    print(f"\nfrom the kill to the next training step: {recovered - killed_at:.1f} s")

    operator.kubectl("wait", "--for=condition=Complete", "-n", NAMESPACE, f"dj/{name}", "--timeout=1200s")
    operator.picture("after")
    status = status_of(operator, name)
    print(json.dumps(status["results"], indent=2))
    figures = {item["name"]: item["value"] for item in status["results"]["metrics"]}
    assert figures["boxAP50"] >= 60
    for field in ("memoryGB", "secondsPerIteration", "inferenceFps", "boxAP"):
        assert status["results"][field] > 0, field
    _check_checkpoints(object_store, name)

    operator.kubectl("delete", "dj", name, "-n", NAMESPACE)
    selector = f"kubedet.dev/job-name={name}"
    wait_for(lambda: not operator.get("pods,services", "-l", selector)["items"], 120, "nothing left")


def test_a_corrected_job_gives_the_same_figures_here_as_on_the_cluster(
    operator: Any,
    object_store: Any,
    apply_job: Callable[..., str],
    job_manifest: Callable[..., str],
    tmp_path: Path,
) -> None:
    short = {"REPLICAS": 2, "OVERRIDES": '{schedule.epochs: "2", schedule.decay_epochs: "1"}'}
    name = apply_job("there", RECIPE="smoke_faster_rcn", **short)
    refused = functools.partial(condition_of, operator, name, "Failed", "True", "smoke_faster_rcnn")
    wait_for(refused, 180, "the refusal of the recipe")
    apply_job("there", **short)
    operator.kubectl("wait", "--for=condition=Complete", "-n", NAMESPACE, f"dj/{name}", "--timeout=600s")
    there = status_of(operator, name)["results"]

    secret = operator.kubectl("get", "secret", "minio", "-n", NAMESPACE, "-o", "yaml")
    (tmp_path / "job.yaml").write_text(job_manifest("here", **short) + "---\n" + secret)
    command = [sys.executable, "-m", "kubedet_trainer.commands.kubedet", "run", "job.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    here = json.loads(object_store.client().get_object("checkpoints", "here/results.json").read())
    print(f"\nthere: {there['boxAP']} {there['metrics']}\nhere:  {here['boxAP']} {here['metrics']}")
    assert (here["boxAP"], here["metrics"]) == (there["boxAP"], there["metrics"])
    assert _weights(object_store, here["modelUri"]) == _weights(object_store, there["modelUri"])


def _weights(object_store: Any, uri: str) -> dict[str, bytes]:
    """The bytes of every tensor of a checkpoint's model."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    content = object_store.client().get_object(bucket, key).read()
    state = torch.load(io.BytesIO(content), weights_only=True)["model"]
    return {name: tensor.numpy().tobytes() for name, tensor in state.items()}


def _last_step(cluster: Any, name: str, *, after: float) -> float | None:
    """The time of the newest training step of any worker, if it is a new one of both workers together."""
    newest = 0.0
    for family in _worker_families(cluster, name):
        if family.name == "kubedet_trainer_last_step_timestamp_seconds":
            newest = max([newest, *(sample.value for sample in family.samples)])
    # A step that was under way at the moment of the kill does not count: nothing recovers within 2 s.
    return newest if newest > after + 2 else None


def _worker_families(cluster: Any, name: str) -> list[Any]:
    return _families(cluster, f"kubedet.dev/job-name={name},app.kubernetes.io/component=worker", 9091)


def _families(cluster: Any, selector: str, port: int) -> list[Any]:
    """What all pods of a selector export: of the operators only the one that leads tells of jobs."""
    addresses = [pod["status"].get("podIP") for pod in cluster.get("pods", "-l", selector)["items"]]
    return [
        family for address in addresses if address for family in _scrape(f"http://{address}:{port}/metrics")
    ]


def _scrape(address: str) -> list[Any]:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return list(text_string_to_metric_families(answer.read().decode()))
    except OSError:
        return []


def _check_metrics(cluster: Any, name: str) -> None:
    assert {family.name for family in _worker_families(cluster, name)} >= TRAINER_SERIES
    operators = "app.kubernetes.io/name=kubedet,app.kubernetes.io/component=operator"
    found = {family.name for family in _families(cluster, operators, 8080) if family.samples}
    assert found >= OPERATOR_SERIES, OPERATOR_SERIES - found


def _check_checkpoints(object_store: Any, name: str) -> None:
    client = object_store.client()
    keys = {
        item.object_name: item.size
        for item in client.list_objects("checkpoints", prefix=f"{name}/", recursive=True)
    }
    manifests = sorted(key for key in keys if key.endswith("/manifest.json"))
    assert manifests
    for key in manifests:
        manifest = json.loads(client.get_object("checkpoints", key).read())
        assert keys[f"{key.rpartition('/')[0]}/state.pt"] == manifest["sizeBytes"]
    assert {f"{name}/results.json", f"{name}/report.html"} <= keys.keys()
    assert any(key.startswith(f"{name}/pictures/") for key in keys)
