"""Careless and hostile clients: each harms its own job at most, and the operator serves the others."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from itertools import islice
from random import Random
from typing import Any

import pytest

import builders
import job_documents
from kubedet_operator.api import names, validation
from kubedet_operator.api.decoding import InvalidManifest
from kubedet_operator.children.service import build_service
from kubedet_trainer import contract

JOBS = int(os.environ.get("KUBEDET_NASTY_JOBS", 40))
"""Accepted jobs of odd content that are really created."""
NAMESPACE = "kubedet-integration"
RESULTS = contract.dump_termination_message(results=contract.Results(boxAP=61.5))

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180 + 3 * JOBS)]


@pytest.fixture
def trains(operator: Any, make_job: Callable[..., Any]) -> Callable[[str], None]:
    """A function that has a plain job train to its end: proof that the operator does its work."""

    def train(name: str) -> None:
        job = make_job(name)
        job.wait_for_pod()
        job.run()
        job.wait_for_condition("Running", "True", "WorkersRunning")
        job.end(0, RESULTS)
        job.wait_for_condition("Complete", "True", "Trained")
        assert operator.is_alive()
        assert "Traceback" not in operator.log.read_text()
        exposed = operator.get("/metrics")
        assert f'name="{name}"' in exposed
        counters = "task_restarts|unreadable_objects"
        counts = re.findall(rf"^kubedet_operator_(?:{counters})_total{{.*}} (\S+)$", exposed, re.M)
        assert counts
        assert set(counts) == {"0.0"}

    return train


def _patch(cluster: Any, kind: str, name: str, change: dict[str, Any], *options: str) -> None:
    text = json.dumps(change)
    cluster.kubectl("patch", kind, name, "-n", NAMESPACE, "--type=merge", "-p", text, *options)


def _stranger(name: str, **metadata: Any) -> dict[str, Any]:
    """A pod of somebody else."""
    security = {
        "allowPrivilegeEscalation": False,
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {"name": "trainer", "image": "x", "securityContext": security}
    spec = {"containers": [container], "nodeSelector": {"kubedet.dev/test": "none"}}
    known = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": known | metadata, "spec": spec}


def test_a_deletion_with_an_endless_grace_is_the_job_s_own_trouble(
    cluster: Any, make_job: Callable[..., Any], trains: Callable[[str], None]
) -> None:
    template = {
        "metadata": {"finalizers": ["example.com/hold"]},
        "spec": {"terminationGracePeriodSeconds": 2**62, "nodeSelector": {"kubedet.dev/test": "none"}},
    }
    job = make_job("endless", worker={"template": template})
    job.wait_for_pod()
    job.run()
    cluster.kubectl("delete", "dj", "endless", "-n", NAMESPACE, "--wait=false")
    trains("beside-endless")
    _patch(cluster, "pod", "endless-worker-0", {"metadata": {"finalizers": None}})


def test_foreign_pods_with_our_labels_and_odd_annotations_are_left_alone(
    cluster: Any, trains: Callable[[str], None]
) -> None:
    labels = names.labels("a-victim", component=names.WORKER, uid="1", index=0, attempt=0)
    odd = {**labels, names.ATTEMPT: "9" * 63, names.REPLICA_INDEX: "9" * 63}
    cluster.apply(_stranger("stranger", labels=odd, annotations={names.GENERATION: "9" * 5000}))
    trains("beside-stranger")
    found = cluster.get("pod", "stranger")
    assert "deletionTimestamp" not in found["metadata"]
    assert found["metadata"]["labels"] == odd
    cluster.kubectl("delete", "pod", "stranger", "-n", NAMESPACE, "--grace-period=0", "--force")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("deep", "[" * 4090),
        ("deep-progress", '{"progress":' + "[" * 4000),
        ("odd-time", '{"progress":{"progress":{"stage":"Training","lastProgressTime":"garbage"}}}'),
        ("digits", '{"failure":{"rank":' + "9" * 4000 + "}}"),
        ("long-reason", json.dumps({"failure": {"reason": "X" * 3000, "message": "\x1b[2J"}})),
    ],
)
def test_a_termination_message_of_nonsense_is_a_plain_failure(
    make_job: Callable[..., Any], trains: Callable[[str], None], name: str, message: str
) -> None:
    job = make_job(name)
    first = job.wait_for_pod()
    job.run()
    job.end(137, message)
    job.wait_for_pod(other_than=first)
    assert job.status()["lastFailure"]["exitCode"] == 137
    trains(f"beside-{name}")


def test_impossible_results_complete_the_job_all_the_same(make_job: Callable[..., Any]) -> None:
    job = make_job("impossible")
    job.wait_for_pod()
    job.run()
    told = {"boxAP": 10**30, "maskAP": float("nan"), "recipe": "x" * 2000, "metrics": [{}] * 150}
    job.end(0, json.dumps({"results": told}))
    job.wait_for_condition("Complete", "True", "Trained")
    assert "maskAP" not in job.status()["results"]


def test_a_foreign_service_is_neither_taken_over_nor_deleted(
    cluster: Any, make_job: Callable[..., Any], wait: Callable[..., Any]
) -> None:
    foreign = build_service(builders.make_job(name="taken", namespace=NAMESPACE, uid=None))
    foreign["metadata"]["labels"] = {"app": "theirs"}
    foreign["spec"] |= {"selector": {"app": "theirs"}, "ports": [{"name": "http", "port": 80}]}
    cluster.apply(foreign)
    before = cluster.get("service", "taken-workers")
    job = make_job("taken", worker={"replicas": 2})
    said = job.wait_for_condition("Initialized", "False", "ChildRejected")["message"]
    assert "taken-workers exists and belongs to no DetectionJob; delete it" in said
    assert cluster.get("service", "taken-workers") == before
    cluster.kubectl("delete", "dj", "taken", "-n", NAMESPACE)
    assert cluster.get("service", "taken-workers") == before
    again = make_job("taken", worker={"replicas": 2})
    again.wait_for_condition("Initialized", "False", "ChildRejected")
    cluster.kubectl("delete", "service", "taken-workers", "-n", NAMESPACE)
    wait(lambda: cluster.get("service", "taken-workers"), "the job's own Service", seconds=90)


def test_a_foreign_pod_of_a_worker_s_name_is_told_of_and_stays(
    cluster: Any, make_job: Callable[..., Any]
) -> None:
    cluster.apply(_stranger("occupied-worker-0"))
    before = cluster.get("pod", "occupied-worker-0")["metadata"]["uid"]
    job = make_job("occupied")
    job.wait_for_condition("Initialized", "False", "ChildRejected")
    assert cluster.get("pod", "occupied-worker-0")["metadata"]["uid"] == before
    cluster.kubectl("delete", "pod", "occupied-worker-0", "-n", NAMESPACE, "--grace-period=0", "--force")


def test_a_pod_that_loses_its_labels_gets_them_back_and_its_end_is_seen(
    cluster: Any, make_job: Callable[..., Any], wait: Callable[..., Any]
) -> None:
    job = make_job("unlabelled")
    first = job.wait_for_pod()
    job.run()
    job.wait_for_condition("Running", "True", "WorkersRunning")
    for label in (names.APP_MANAGED_BY, names.JOB_NAME, names.JOB_UID):
        _patch(cluster, "pod", "unlabelled-worker-0", {"metadata": {"labels": {label: None}}})
    wait(
        lambda: names.APP_MANAGED_BY in (job.pod() or {})["metadata"]["labels"], "the label again", seconds=60
    )
    assert job.wait_for_pod() == first
    job.end(0, RESULTS)
    job.wait_for_condition("Complete", "True", "Trained")


def test_a_status_of_another_controller_costs_nobody_the_metrics(
    cluster: Any, make_job: Callable[..., Any], trains: Callable[[str], None]
) -> None:
    make_job("elsewhere", managedBy="example.com/other")
    status = {"time": {}, "phase": "Enchanted", "progress": {"stage": "Training", "percentage": -(2**63)}}
    _patch(cluster, "dj", "elsewhere", {"status": status}, "--subresource=status")
    trains("beside-elsewhere")


def test_a_field_that_no_pod_has_is_refused_by_name(cluster: Any, operator: Any) -> None:
    job = builders.make_manifest(
        name="typo", namespace=NAMESPACE, worker={"template": {"spec": {"nodeSelektor": {"a": "b"}}}}
    )
    with pytest.raises(RuntimeError, match=r'unknown field "spec.worker.template.spec.nodeSelektor"'):
        cluster.apply(job)


def test_odd_jobs_that_are_accepted_are_all_judged_and_harm_none(
    cluster: Any, operator: Any, wait: Callable[..., Any], trains: Callable[[str], None]
) -> None:
    made: list[str] = []
    refused = 0
    documents = job_documents.generate(Random(JOBS), namespace=NAMESPACE)
    for index, document in enumerate(islice(documents, 5 * JOBS)):
        if len(made) == JOBS:
            break
        document["metadata"]["name"] = f"odd-{index}"
        try:
            validation.load_job(document)
        except InvalidManifest:
            refused += 1
            continue
        cluster.kubectl("create", "-f", "-", stdin=json.dumps(document))
        made.append(document["metadata"]["name"])

    def unjudged() -> list[str]:
        items = cluster.items("dj")
        return [
            item["metadata"]["name"]
            for item in items
            if item["metadata"]["name"] in made
            and item["spec"]["managedBy"] == names.MANAGED_BY
            and "observedGeneration" not in item.get("status", {})
        ]

    wait(lambda: not unjudged(), "a status of every job", seconds=30 + JOBS)
    trains("beside-odd")
    print(f"{len(made)} created, {refused} refused beforehand")
    cluster.kubectl("delete", "dj", *made, "-n", NAMESPACE, "--wait=false")
