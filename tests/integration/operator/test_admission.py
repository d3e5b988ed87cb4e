"""What other parts of a cluster refuse, change or have taken already is told, and left behind in the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kubedet_trainer import contract
from zoo_simulation import make_zoo

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

NAMESPACE = "kubedet-integration"
RECIPES = ("smoke_ssd", "smoke_rpn")
TEMPLATE = {
    "spec": {
        "dataset": {"storageUri": "synthetic://shapes"},
        "checkpoint": {"storageUri": "file:///zoo"},
        "worker": {"gpus": 0, "template": {"spec": {"nodeSelector": {"kubedet.dev/test": "no-such-node"}}}},
    }
}


@pytest.fixture
def apply(cluster: Any, operator: Any) -> Iterator[Callable[[str], Callable[[], dict[str, Any]]]]:
    """Applies a zoo of two rows; gives what reads its status. It is deleted in the end."""
    made: list[str] = []

    def make(name: str) -> Callable[[], dict[str, Any]]:
        made.append(name)
        spec = {"rows": {"recipes": list(RECIPES)}, "parallelism": 2, "template": TEMPLATE}
        cluster.apply(make_zoo(name=name, namespace=NAMESPACE, **spec))
        return lambda: dict((cluster.get("zoo", name) or {}).get("status") or {})

    yield make
    cluster.kubectl("delete", "zoo", *made, "-n", NAMESPACE, "--ignore-not-found", "--wait=false")


def _reason(status: dict[str, Any], kind: str) -> str | None:
    return next((item["reason"] for item in status.get("conditions", ()) if item["type"] == kind), None)


def _phases(status: dict[str, Any]) -> set[str]:
    return {row["phase"] for row in status.get("rows", ())}


def test_a_name_that_was_taken_is_used_soon_after_it_is_free(
    cluster: Any, apply: Callable[[str], Callable[[], dict[str, Any]]], wait: Callable[..., Any]
) -> None:
    job = {"apiVersion": "kubedet.dev/v1alpha1", "kind": "DetectionJob"}
    own = {**job, "metadata": {"name": "taken-smoke-ssd", "namespace": NAMESPACE}}
    cluster.apply({**own, "spec": {"recipe": "smoke_ssd", **TEMPLATE["spec"], "suspend": True}})
    status = apply("taken")
    wait(lambda: _reason(status(), "Degraded") == "NameTaken", "the name that is taken", seconds=40)
    uid = cluster.get("dj", "taken-smoke-ssd")["metadata"]["uid"]
    cluster.kubectl("delete", "dj", "taken-smoke-ssd", "-n", NAMESPACE)
    wait(lambda: _phases(status()) == {"Running"}, "the row whose name is free", seconds=40)
    assert cluster.get("dj", "taken-smoke-ssd")["metadata"]["uid"] != uid


def test_a_quota_is_told_and_the_rows_begin_when_it_is_gone(
    cluster: Any, apply: Callable[[str], Callable[[], dict[str, Any]]], wait: Callable[..., Any]
) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few", "namespace": NAMESPACE}}
    limit = {"count/detectionjobs.kubedet.dev": "0"}
    cluster.apply({**quota, "spec": {"hard": limit}})
    try:
        wait(
            lambda: (cluster.get("quota", "few") or {}).get("status", {}).get("used"), "the quota", seconds=40
        )
        status = apply("quota")
        wait(lambda: _reason(status(), "Degraded") == "ChildRejected", "the refusal", seconds=40)
        said = next(item["message"] for item in status()["conditions"] if item["type"] == "Degraded")
        assert "exceeded quota: few" in said
        assert _phases(status()) == {"Pending"}
    finally:
        cluster.kubectl("delete", "quota", "few", "-n", NAMESPACE)
    wait(lambda: _phases(status()) == {"Running"}, "both rows", seconds=60)
    wait(lambda: _reason(status(), "Degraded") == "AsExpected", "the end of the complaint", seconds=60)


@pytest.mark.parametrize("cascade", ["orphan", "foreground"])
def test_a_zoo_that_is_deleted_takes_its_jobs_along_or_leaves_them(
    cluster: Any, apply: Callable[[str], Callable[[], dict[str, Any]]], wait: Callable[..., Any], cascade: str
) -> None:
    status = apply(cascade)
    wait(lambda: _phases(status()) == {"Running"}, "both rows", seconds=40)
    cluster.kubectl("delete", "zoo", cascade, "-n", NAMESPACE, f"--cascade={cascade}")
    left = cluster.items("dj", "-l", f"kubedet.dev/zoo={cascade}")
    try:
        assert len(left) == (2 if cascade == "orphan" else 0)
        assert not any(job["metadata"].get("ownerReferences") for job in left)
    finally:
        for job in left:
            cluster.kubectl("delete", "dj", job["metadata"]["name"], "-n", NAMESPACE, "--wait=false")


def test_a_job_ends_although_a_sidecar_does_not(
    make_job: Callable[..., Any], cluster: Any, wait: Any
) -> None:
    job = make_job("sidecar")
    wait(job.pod, "its pod")
    job.run()
    job.end(0, contract.dump_termination_message(results=contract.Results(boxAP=30.0)), sidecar=True)
    job.wait_for_condition("Complete", "True", "Trained")
    wait(
        lambda: not json.dumps(job.pod() or {}).count('"phase": "Running"'), "the end of the pod", seconds=40
    )
