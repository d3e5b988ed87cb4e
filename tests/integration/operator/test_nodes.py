"""Nodes on a real API server: which one a job waits for, and which one all jobs avoid."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import pytest

from kubedet_trainer import contract
from kubedet_trainer.contract.times import format_now

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

NAMESPACE = "kubedet-integration"
NODE = "suspect-node"
HANG = contract.Failure(
    exitCode=152, reason="Hang", message="no step for 60 s; its process is stopped, as by SIGSTOP", rank=0
)


@pytest.fixture
def place(cluster: Any) -> Iterator[Callable[[str], None]]:
    """A function that does the scheduler's work for a pod, on a node where nothing runs."""
    cluster.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})

    def bind(pod: str) -> None:
        target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod}, "target": target}
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/binding"
        cluster.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(binding))

    yield bind
    cluster.kubectl("delete", "node", NODE)


def test_a_straggler_is_in_the_status_the_metrics_and_an_event_until_it_is_over(
    cluster: Any,
    operator: Any,
    make_job: Callable[..., Any],
    wait: Callable[..., Any],
    rank_0: tuple[int, dict[str, Any]],
    place: Callable[[str], None],
) -> None:
    port, record = rank_0
    job = make_job("slowed", worker={"replicas": 2}, metrics={"port": port})
    for index in (0, 1):
        job.wait_for_pod(index)
        place(f"slowed-worker-{index}")
        job.run(index)
    job.wait_for_condition("Running", "True", "WorkersRunning")

    progress = contract.Progress(
        stage=contract.Stage.TRAINING, iteration=500, totalIterations=1000, lastProgressTime=format_now()
    )
    slow = contract.Straggler(rank=1, replica=1, ratio=1.8, since="2026-01-01T00:50:00Z")
    record.update(asdict(contract.ProgressRecord(progress=progress, straggler=slow, worldSize=2)))
    found = wait(lambda: job.status().get("straggler"), "the straggler")
    assert found == {
        "rank": 1,
        "pod": "slowed-worker-1",
        "node": NODE,
        "ratio": 1.8,
        "since": "2026-01-01T00:50:00Z",
    }
    told = f'namespace="{NAMESPACE}",node="{NODE}",rank="1",worker="slowed-worker-1"}} 1.8'
    assert f'kubedet_job_straggler_ratio{{name="slowed",{told}' in operator.get("/metrics")
    event = wait(
        lambda: [item for item in cluster.items("events") if item["reason"] == "StragglerFound"], "the Event"
    )
    assert f"rank 1 in slowed-worker-1 on {NODE}" in event[0]["message"]

    record["straggler"] = None
    wait(lambda: "straggler" not in job.status(), "a status without it")
    assert "kubedet_job_straggler_ratio{" not in operator.get("/metrics")


def test_all_jobs_avoid_a_node_that_broke_three_of_them_also_after_a_restart_of_the_operator(
    operator: Any, make_job: Callable[..., Any], place: Callable[[str], None]
) -> None:
    for number in range(3):
        name = f"broken-{number}"
        job = make_job(name, backoffLimit=0)
        job.wait_for_pod()
        place(f"{name}-worker-0")
        job.run()
        job.end(152, contract.dump_termination_message(failure=HANG))
        job.wait_for_condition("Failed", "True", "BackoffLimitExceeded")
        assert job.status()["lastFailure"]["node"] == NODE
    assert f'kubedet_operator_suspect_nodes{{node="{NODE}"}} 3.0' in operator.get("/metrics")

    _check_is_wary(make_job("wary"))
    operator.stop(signal.SIGKILL)
    operator.start()
    operator.wait_until_ready()
    _check_is_wary(make_job("as-wary"))

    untouched = make_job("careless", failurePolicy={"nodeExclusion": {"ttlSeconds": 0}})
    untouched.wait_for_pod()
    assert "affinity" not in untouched.pod()["spec"]


def _check_is_wary(job: Any) -> None:
    job.wait_for_pod()
    found = job.pod()["spec"]["affinity"]["nodeAffinity"]
    term = {"key": "metadata.name", "operator": "NotIn", "values": [NODE]}
    preferred = [{"weight": 100, "preference": {"matchFields": [term]}}]
    assert found == {"preferredDuringSchedulingIgnoredDuringExecution": preferred}
    (node,) = job.status()["excludedNodes"]  # written before the pod was created
    assert (node["name"], node["mode"], node["reason"]) == (NODE, "Preferred", "Hang")
