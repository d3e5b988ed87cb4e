"""A job on real nodes that is resized, loses what it needs, rests, and still ends with its row."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster_jobs import NAMESPACE, condition_of, pod_uids, status_of, wait_for, worker_process
from kubedet_trainer.contract.times import parse_time

ROOT = Path(__file__).resolve().parent.parent.parent
OPERATORS = "app.kubernetes.io/name=kubedet,app.kubernetes.io/component=operator"

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

ELASTIC = "elasticPolicy: {minReplicas: 1, maxReplicas: 3, scaleUpDelaySeconds: 5}"

LONG = '{schedule.epochs: "16", schedule.decay_epochs: "12,14", data.num_workers: "1"}'
"""No step of the test may be overtaken by the end of the training."""


_PHASES = (
    "starting",
    "restoring",
    "training",
    "checkpoint_stall",
    "evaluating",
    "restarting",
    "lost",
    "suspended",
)


def test_an_elastic_job_grows_shrinks_rests_and_ends(
    operator: Any, object_store: Any, apply_job: Callable[..., str]
) -> None:
    name = apply_job("elastic", REPLICAS=2, MORE=ELASTIC, OVERRIDES=LONG)
    _await_world(operator, name, 2)
    wait_for(lambda: _checkpoint(operator, name) >= 20, 300, "a checkpoint")

    _upgrade(operator, name)

    _scale(operator, name, 3)
    _await_world(operator, name, 3)
    operator.picture("three workers")

    before = _uids(operator, name)
    os.kill(worker_process(name, replica=0), signal.SIGKILL)
    wait_for(lambda: status_of(operator, name)["restarts"]["application"] == 1, 60, "the loss in the status")
    wait_for(lambda: _uids(operator, name).keys() == before.keys(), 120, "worker 0 again")
    _await_world(operator, name, 3)
    after = _uids(operator, name)
    assert [pod for pod in before if after[pod] != before[pod]] == [f"{name}-worker-0"]

    operator.kubectl("delete", "pod", "-n", NAMESPACE, f"{name}-rendezvous", "--wait=false")
    reached = status_of(operator, name)["progress"]["iteration"]
    wait_for(lambda: status_of(operator, name)["progress"]["iteration"] > reached, 180, "training without it")

    _scale(operator, name, 1)
    _await_world(operator, name, 1)
    assert list(_uids(operator, name)) == [f"{name}-rendezvous", f"{name}-worker-0"]
    operator.picture("one worker")

    _patch(operator, name, {"suspend": True})
    wait_for(lambda: condition_of(operator, name, "Suspended", "True", "suspend"), 180, "a suspended job")
    assert not _uids(operator, name)
    rested = status_of(operator, name)
    assert rested["checkpoint"]["iteration"] == rested["progress"]["iteration"]
    operator.picture("suspended")

    image = operator.get("dj", name)["spec"]["worker"]["image"]
    _patch(operator, name, {"suspend": False, "worker": {"replicas": 2, "image": "kubedet-trainer:absent"}})
    wait_for(
        lambda: condition_of(operator, name, "Initialized", "False", ":absent"), 60, "a word of the image"
    )
    operator.picture("with a missing image")
    _patch(operator, name, {"worker": {"image": image}})
    resumed_at = wait_for(lambda: _resumed_at(operator, name), 240, "resumed training")
    assert resumed_at == rested["checkpoint"]["iteration"]
    operator.kubectl("wait", "--for=condition=Complete", "-n", NAMESPACE, f"dj/{name}", "--timeout=900s")
    operator.picture("complete")
    status = status_of(operator, name)
    assert status["restarts"]["application"] == 1
    print(json.dumps({"resumed_at": resumed_at, **status["results"]}, indent=1))
    assert status["results"]["boxAP"] > 0
    created = operator.get("dj", name)["metadata"]["creationTimestamp"]
    life = (parse_time(status["completionTime"]) - parse_time(created)).total_seconds()
    seconds = status["time"]["seconds"]
    print(json.dumps({"life": life, "sum": sum(seconds.values()), **seconds}, indent=1))
    assert sum(seconds.values()) == pytest.approx(life, rel=0.01)
    # A kill, a suspension, evaluations: all of them took a while, and so did what they interrupted.
    assert set(_PHASES) <= {phase for phase, spent in seconds.items() if spent > 0}


def _upgrade(cluster: Any, name: str) -> None:
    """Upgrade the release while the job runs: other operators take over, and no pod of the job notices."""
    chart = str(ROOT / "charts" / "kubedet")
    operators, pods = pod_uids(cluster, OPERATORS), _uids(cluster, name)
    change = ("--set", "operator.resources.limits.memory=320Mi")
    print(cluster.helm("upgrade", "kubedet", chart, "--reuse-values", *change, "--wait", "--timeout=3m"))
    wait_for(lambda: not pod_uids(cluster, OPERATORS).keys() & operators.keys(), 60, "new operators alone")
    reached = status_of(cluster, name)["progress"]["iteration"]
    wait_for(
        lambda: status_of(cluster, name)["progress"]["iteration"] > reached,
        60,
        "a report to the new operator",
    )
    assert _uids(cluster, name) == pods
    restarts = status_of(cluster, name).get("restarts", {})
    assert not any(restarts.values()), restarts
    cluster.picture("after the upgrade")


def _scale(cluster: Any, name: str, replicas: int) -> None:
    cluster.kubectl("scale", "-n", NAMESPACE, f"dj/{name}", f"--replicas={replicas}")


def _patch(cluster: Any, name: str, spec: dict[str, Any]) -> None:
    body = json.dumps({"spec": spec})
    cluster.kubectl("patch", "-n", NAMESPACE, f"dj/{name}", "--type=merge", "-p", body)


def _await_world(cluster: Any, name: str, size: int) -> None:
    """Wait until so many workers train together."""

    def workers() -> tuple[int, int]:
        found = status_of(cluster, name).get("workers", {})
        return found.get("ready", 0), found.get("worldSize", 0)

    wait_for(lambda: workers() == (size, size), 240, f"world of {size} workers")


def _checkpoint(cluster: Any, name: str) -> int:
    return int(status_of(cluster, name).get("checkpoint", {}).get("iteration", 0))


def _resumed_at(cluster: Any, name: str) -> int | None:
    """The iteration that the training went on from, once it has: rank 0, which says so, may be anywhere."""
    try:
        logs = [cluster.kubectl("logs", "-n", NAMESPACE, pod) for pod in _uids(cluster, name)]
    except AssertionError:  # not all have started yet
        return None
    found = re.findall(r"resumed from \S+ at iteration (\d+)", "\n".join(logs))
    return int(found[-1]) if found else None


def _uids(cluster: Any, name: str) -> dict[str, str]:
    """The job's pods and their identities, by name."""
    return pod_uids(cluster, f"kubedet.dev/job-name={name}")
