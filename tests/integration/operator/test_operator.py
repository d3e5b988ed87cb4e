"""The operator on a real API server: what it does with jobs, and what jobs say about it."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from kubedet_trainer import contract
from kubedet_trainer.contract.times import format_now

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

NAMESPACE = "kubedet-integration"
RESULTS = contract.dump_termination_message(
    results=contract.Results(boxAP=61.5, secondsPerIteration=0.41, memoryGB=1.2, inferenceFps=14.0)
)


def test_a_job_runs_reports_progress_and_completes_with_its_row(
    cluster: Any,
    operator: Any,
    make_job: Callable[..., Any],
    wait: Callable[..., Any],
    rank_0: tuple[int, dict[str, Any]],
) -> None:
    port, record = rank_0
    job = make_job("happy", worker={"replicas": 2}, metrics={"port": port})
    for index in (0, 1):
        job.wait_for_pod(index)
        job.run(index)
    job.wait_for_condition("Running", "True", "WorkersRunning")
    progress = contract.Progress(
        stage=contract.Stage.TRAINING,
        iteration=42,
        totalIterations=100,
        percentage=42,
        estimatedRemainingSeconds=58,
        lastProgressTime=format_now(),
    )
    record.update(asdict(contract.ProgressRecord(progress=progress, worldSize=2)))
    wait(lambda: job.status().get("progress", {}).get("percentage") == 42, "the progress")
    assert job.status()["workers"]["worldSize"] == 2
    assert 'kubedet_job_progress_ratio{name="happy",namespace="kubedet-integration"} 0.42' in operator.get(
        "/metrics"
    )
    shown = cluster.kubectl("get", "dj", "happy", "-n", NAMESPACE)
    assert "Running" in shown
    assert "42" in shown

    job.end(0, RESULTS, index=0)
    job.end(0, index=1)
    cluster.kubectl("wait", "--for=condition=Complete", "dj/happy", "-n", NAMESPACE, "--timeout=20s")
    status = job.status()
    assert status["results"]["boxAP"] == 61.5
    assert status["phase"] == "Succeeded"
    assert status["completionTime"]
    assert status["progress"]["percentage"] == 100
    wait(lambda: cluster.get("pod", "happy-rendezvous") is None, "end of the rendezvous pod")
    assert job.pod(0) is not None
    assert "61.5" in cluster.kubectl("get", "dj", "happy", "-n", NAMESPACE)


def test_a_killed_worker_is_replaced_and_counted_once(
    make_job: Callable[..., Any], wait: Callable[..., Any]
) -> None:
    job = make_job("killed", worker={"replicas": 2})
    uids = [job.wait_for_pod(index) for index in (0, 1)]
    job.run(0)
    job.run(1)
    job.wait_for_condition("Running", "True", "WorkersRunning")
    job.end(137, index=1)
    job.wait_for_pod(1, other_than=uids[1])
    assert job.wait_for_pod(0) == uids[0]
    status = job.status()
    assert status["restarts"]["application"] == 1
    assert status["lastFailure"]["exitCode"] == 137
    assert status["lastFailure"]["pod"] == "killed-worker-1"
    job.run(1)
    job.wait_for_condition("Restarting", "False", "Recovered")
    wait(lambda: job.status()["chargedPods"] == [], "the mark gone")
    assert job.status()["restarts"]["application"] == 1


def test_a_permanent_failure_ends_the_job_at_once_with_its_root_cause(make_job: Callable[..., Any]) -> None:
    job = make_job("permanent")
    job.wait_for_pod()
    cause = "recipe: got 'smoke_rpnn', must be a recipe. Did you mean 'smoke_rpn'?"
    record = contract.Failure(exitCode=65, reason="InvalidInput", message=cause, rank=0)
    job.end(65, contract.dump_termination_message(failure=record))
    found = job.wait_for_condition("Failed", "True", "PermanentFailure")
    assert cause in found["message"]
    assert job.status()["lastFailure"]["reason"] == "InvalidInput"
    assert job.pod() is not None, "the pod that explains the failure must stay"


def test_a_wrong_recipe_has_no_pod_and_trains_once_it_is_corrected(
    cluster: Any, operator: Any, make_job: Callable[..., Any]
) -> None:
    begun = time.monotonic()
    job = make_job("mistyped", recipe="faster_rcnn_r50", overrides={"data.scale": "640,480"})
    found = job.wait_for_condition("Failed", "True", "InvalidSpec")
    print(f"\nrefused within {time.monotonic() - begun:.2f} s, kubectl included")
    assert found["message"] == (
        "spec.recipe: got 'faster_rcnn_r50', must be one that `kubedet recipes` lists, or module:attribute "
        "for one of your own. Did you mean 'faster_rcnn_r50_fpn_1x'?"
    )
    headings, row = cluster.kubectl("get", "dj", "mistyped", "-n", NAMESPACE).splitlines()
    assert headings.split()[:4] == ["NAME", "PHASE", "REASON", "WORKERS"]
    assert row.split()[:4] == ["mistyped", "Failed", "InvalidSpec", "0/1"]
    assert max(len(headings), len(row)) <= 120
    assert "startTime" not in job.status()
    assert [line for line in _created_pods(cluster) if "mistyped" in line] == []

    correction = json.dumps({"spec": {"recipe": "faster_rcnn_r50_fpn_1x"}})
    cluster.kubectl("patch", "dj", "mistyped", "-n", NAMESPACE, "--type=merge", "-p", correction)
    job.wait_for_pod()
    assert [line for line in _created_pods(cluster) if "mistyped" in line] != []
    job.run()
    job.wait_for_condition("Running", "True", "WorkersRunning")
    job.end(0, RESULTS)
    job.wait_for_condition("Complete", "True", "Trained")


def _created_pods(cluster: Any) -> list[str]:
    """The names of all worker pods that there are, or of which an Event tells."""
    pods = [pod["metadata"]["name"] for pod in cluster.items("pods")]
    told = [event["involvedObject"] for event in cluster.items("events")]
    return pods + [found["name"] for found in told if found["kind"] == "Pod"]


def test_the_backoff_limit_ends_the_job(make_job: Callable[..., Any]) -> None:
    job = make_job("limited", backoffLimit=1)
    uid = job.wait_for_pod()
    job.end(139)
    job.wait_for_pod(other_than=uid)
    job.end(139)
    found = job.wait_for_condition("Failed", "True", "BackoffLimitExceeded")
    assert "spec.backoffLimit is 1" in found["message"]


def test_a_pod_that_somebody_deletes_comes_back(make_job: Callable[..., Any], cluster: Any) -> None:
    job = make_job("deleted")
    uid = job.wait_for_pod()
    job.run()
    cluster.kubectl("delete", "pod", "deleted-worker-0", "-n", NAMESPACE, "--wait=false")
    job.wait_for_pod(other_than=uid)
    assert job.status()["restarts"]["application"] == 0


def test_a_service_that_somebody_deletes_or_edits_is_repaired(
    make_job: Callable[..., Any], cluster: Any, wait: Callable[..., Any]
) -> None:
    job = make_job("repaired", worker={"replicas": 2})
    job.wait_for_pod()
    service = wait(lambda: cluster.get("service", "repaired-workers"), "the Service")
    cluster.kubectl("delete", "service", "repaired-workers", "-n", NAMESPACE)
    wait(
        lambda: (
            (found := cluster.get("service", "repaired-workers"))
            and found["metadata"]["uid"] != service["metadata"]["uid"]
        ),
        "another Service",
    )
    patch = json.dumps({"spec": {"publishNotReadyAddresses": False}})
    cluster.kubectl("patch", "service", "repaired-workers", "-n", NAMESPACE, "--type=merge", "-p", patch)
    wait(
        lambda: cluster.get("service", "repaired-workers")["spec"].get("publishNotReadyAddresses"),
        "the Service as it was",
    )


def test_a_job_of_one_worker_gets_a_service_only_with_its_second_worker(
    make_job: Callable[..., Any], cluster: Any, wait: Callable[..., Any]
) -> None:
    job = make_job("growing")
    uid = job.wait_for_pod()
    job.run()
    job.wait_for_condition("Running", "True", "WorkersRunning")
    assert cluster.get("service", "growing-workers") is None
    patch = json.dumps({"spec": {"worker": {"replicas": 2}}})
    cluster.kubectl("patch", "dj", "growing", "-n", NAMESPACE, "--type=merge", "-p", patch)
    assert job.wait_for_pod(0, other_than=uid)
    job.wait_for_pod(1)
    wait(lambda: cluster.get("service", "growing-workers"), "the Service")
    assert cluster.get("pod", "growing-rendezvous") is not None


def test_children_that_were_orphaned_on_purpose_are_nobody_s_and_stay(
    make_job: Callable[..., Any], cluster: Any, operator: Any, wait: Callable[..., Any]
) -> None:
    job = make_job("orphaned", worker={"replicas": 2})
    uids = {job.wait_for_pod(index) for index in (0, 1)}
    cluster.kubectl("delete", "dj", "orphaned", "-n", NAMESPACE, "--cascade=orphan")
    again = make_job("orphaned")
    said = again.wait_for_condition("Initialized", "False", "ChildRejected")["message"]
    assert "orphaned-worker-0 exists and belongs to no DetectionJob; delete it" in said
    assert {job.wait_for_pod(index) for index in (0, 1)} == uids
    selector = "kubedet.dev/job-name=orphaned"
    cluster.kubectl("delete", "pods,services", "-l", selector, "-n", NAMESPACE, "--grace-period=0", "--force")
    again.wait_for_pod()


@pytest.mark.parametrize(
    ("name", "waiting", "said", "reason"),
    [
        ("no-image", "ImagePullBackOff", 'Back-off pulling image "nowhere/trainer:1"', "ImageNotPulled"),
        ("no-secret", "CreateContainerConfigError", 'secret "minio" not found', "SecretNotFound"),
    ],
)
def test_a_pod_that_cannot_start_says_so_and_starts_later(
    make_job: Callable[..., Any], name: str, waiting: str, said: str, reason: str
) -> None:
    job = make_job(name)
    uid = job.wait_for_pod()
    job.block(waiting, said)
    assert said in job.wait_for_condition("Initialized", "False", reason)["message"]
    job.wait_for_condition("Degraded", "True", reason)
    job.run()
    job.wait_for_condition("Degraded", "False", "AsExpected")
    assert job.wait_for_pod() == uid


def test_an_unschedulable_pod_carries_the_scheduler_s_words(make_job: Callable[..., Any]) -> None:
    found = make_job("homeless").wait_for_condition("Initialized", "False", "Unschedulable")
    assert "nodes" in found["message"]


def test_a_pod_that_admission_refuses_is_told_of_and_comes_when_it_is_mended(
    make_job: Callable[..., Any], cluster: Any
) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "no-gpus"}}
    quota["metadata"] = {"name": "no-gpus", "namespace": NAMESPACE}
    quota["spec"] = {"hard": {"requests.nvidia.com/gpu": "0"}}
    cluster.apply(quota)
    job = make_job("refused", worker={"gpus": 1})
    found = job.wait_for_condition("Initialized", "False", "ChildRejected")
    assert "exceeded quota" in found["message"]
    cluster.kubectl("delete", "resourcequota", "no-gpus", "-n", NAMESPACE)
    job.wait_for_pod()


def test_an_operator_killed_in_the_middle_neither_forgets_nor_counts_twice(
    make_job: Callable[..., Any], operator: Any, wait: Callable[..., Any]
) -> None:
    job = make_job("resumed")
    uid = job.wait_for_pod()
    job.end(137)
    wait(lambda: job.status()["restarts"]["application"] == 1, "the charge")
    operator.stop(signal.SIGKILL)
    operator.start()
    operator.wait_until_ready()
    second = job.wait_for_pod(other_than=uid)
    assert job.status()["restarts"]["application"] == 1
    operator.stop(signal.SIGKILL)
    job.end(137)
    operator.start()
    operator.wait_until_ready()
    wait(lambda: job.status()["restarts"]["application"] == 2, "the second charge")
    # The second restart waits for 10 s.
    wait(lambda: job.status()["attempt"] == 2, "the second restart", seconds=40)
    assert job.wait_for_pod(other_than=second)
    assert job.status()["restarts"]["application"] == 2


def test_deleting_a_job_leaves_nothing(
    make_job: Callable[..., Any], cluster: Any, operator: Any, wait: Callable[..., Any]
) -> None:
    job = make_job("brief", worker={"replicas": 2})
    job.wait_for_pod(0)
    job.wait_for_pod(1)
    job.run(0)
    wait(lambda: 'name="brief"' in operator.get("/metrics"), "metrics of the job")
    cluster.kubectl("delete", "dj", "brief", "-n", NAMESPACE)
    wait(lambda: 'name="brief"' not in operator.get("/metrics"), "metrics without the job")
    # The garbage collector looks for new kinds every 30 s, and the CRD is new.
    selector = "kubedet.dev/job-name=brief"
    wait(lambda: not cluster.get("pods,services", "-l", selector), "nothing left", seconds=60)


def test_sigterm_ends_the_operator_cleanly_and_soon(operator: Any) -> None:
    started = time.monotonic()
    assert operator.stop() == 0
    stopped = time.monotonic() - started
    print(f"\nstopped within {stopped:.2f} s")
    operator.start()
    operator.wait_until_ready()


def test_an_api_server_that_cannot_be_reached_gives_one_line(
    tmp_path: Path,
    account: Callable[[str], Path],
    make_operator: Callable[..., Any],
    wait: Callable[..., Any],
) -> None:
    config = json.loads(account("kubedet-operator").read_text())
    for entry in config["clusters"]:
        entry["cluster"]["server"] = "https://127.0.0.1:1"
    path = tmp_path / "unreachable.json"
    path.write_text(json.dumps(config))
    _check_one_line(make_operator(path), "the API server https://127.0.0.1:1 does not answer", wait)


def test_a_missing_permission_gives_one_line(
    account: Callable[[str], Path], make_operator: Callable[..., Any], wait: Callable[..., Any]
) -> None:
    _check_one_line(make_operator(account("default")), "apply manifests/install.yaml", wait)


def _check_one_line(operator: Any, word: str, wait: Callable[..., Any]) -> None:
    """Started in vain and tried again more than once, the operator says the same thing one time only."""
    wait(lambda: word in operator.log.read_text(), word)
    time.sleep(3.5)
    assert operator.is_alive()
    assert not operator.get("/readyz")
    assert operator.stop() == 0
    told = [line["message"] for line in operator.lines() if line["severity"] not in ("info", "debug")]
    assert len(told) == 1
    assert word in told[0]
