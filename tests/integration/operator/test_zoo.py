"""Zoos on a real API server: the jobs of their rows, whose workers the tests end as a kubelet would."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kubedet_trainer import contract
from zoo_simulation import make_zoo

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

NAMESPACE = "kubedet-integration"
NO_NODE = {"spec": {"nodeSelector": {"kubedet.dev/test": "no-such-node"}}}
TEMPLATE = {
    "spec": {
        "dataset": {"storageUri": "synthetic://shapes"},
        "checkpoint": {"storageUri": "file:///zoo"},
        "worker": {"gpus": 0, "template": NO_NODE},
    }
}


class Zoo:
    """One ModelZoo of the test's namespace."""

    def __init__(
        self, cluster: Any, name: str, wait: Callable[..., Any], find_job: Callable[[str], Any]
    ) -> None:
        self.cluster, self.name = cluster, name
        self._wait, self._find_job = wait, find_job

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = (self.cluster.get("zoo", self.name) or {}).get("status", {})
        return found

    def phases(self) -> dict[str, str]:
        return {row["recipe"]: row["phase"] for row in self.status().get("rows", ())}

    def wait_for_phases(self, **phases: str) -> None:
        self._wait(lambda: self.phases() == phases, f"{phases} of {self.name}", seconds=40)

    def wait_for_condition(self, kind: str, status: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            conditions = self.status().get("conditions", ())
            found = [item for item in conditions if (item["type"], item["status"]) == (kind, status)]
            return found[0] if found else None

        condition: dict[str, Any] = self._wait(look, f"{kind}={status} of {self.name}", seconds=40)
        return condition

    def jobs(self) -> dict[str, dict[str, Any]]:
        """Recipe to job."""
        found = self.cluster.items("dj", "-l", f"kubedet.dev/zoo={self.name}")
        return {job["spec"]["recipe"]: job for job in found}

    def end(self, recipe: str, code: int = 0, **figures: Any) -> None:
        """The worker of a row's job ends, as the trainer would end it."""
        metadata = self._wait(lambda: self.jobs().get(recipe), f"the job of {recipe}")["metadata"]
        job = self._find_job(metadata["name"])

        def has_pod() -> bool:
            # A deleted job of the same name leaves its pod to the garbage collector, which takes its time.
            labels = ((job.pod() or {}).get("metadata") or {}).get("labels") or {}
            return bool(labels.get("kubedet.dev/job-uid") == metadata["uid"])

        self._wait(has_pod, f"the pod of {recipe}", seconds=60)
        job.run()
        if code:
            record = contract.Failure(exitCode=code, reason="LossNotFinite", message="loss is NaN", rank=0)
            job.end(code, contract.dump_termination_message(failure=record))
        else:
            job.end(0, contract.dump_termination_message(results=contract.Results(recipe=recipe, **figures)))

    def change(self, **spec: Any) -> None:
        target = ("patch", "zoo", self.name, "-n", NAMESPACE, "--type=merge", "-p")
        self.cluster.kubectl(*target, json.dumps({"spec": spec}))


@pytest.fixture
def make(
    cluster: Any, operator: Any, wait: Callable[..., Any], find_job: Callable[[str], Any]
) -> Iterator[Callable[..., Zoo]]:
    """A function that applies a zoo, which is deleted in the end with its jobs."""
    made: list[str] = []

    def make(name: str, **spec: Any) -> Zoo:
        made.append(name)
        cluster.apply(make_zoo(name=name, namespace=NAMESPACE, **{"template": TEMPLATE, **spec}))
        return Zoo(cluster, name, wait, find_job)

    yield make
    cluster.kubectl("delete", "zoo", *made, "-n", NAMESPACE, "--ignore-not-found", "--wait=false")


def test_a_table_is_trained_to_its_end_with_proposals_as_its_only_edge(
    make: Callable[..., Zoo], cluster: Any, operator: Any, wait: Callable[..., Any]
) -> None:
    zoo = make(
        "table",
        rows={"recipes": ["smoke_fast_rcnn", "smoke_rpn", "smoke_retinanet"]},
        parallelism=2,
    )
    zoo.wait_for_phases(smoke_rpn="Running", smoke_fast_rcnn="Waiting", smoke_retinanet="Running")
    jobs = zoo.jobs()
    assert set(jobs) == {"smoke_rpn", "smoke_retinanet"}
    owner = jobs["smoke_rpn"]["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("ModelZoo", "table", True)
    assert jobs["smoke_rpn"]["spec"]["writeProposals"] is True
    zoo.end("smoke_rpn", ar1000=61.0, proposalsUri="file:///zoo/proposals")
    zoo.wait_for_phases(smoke_rpn="Succeeded", smoke_fast_rcnn="Running", smoke_retinanet="Running")
    given = zoo.jobs()["smoke_fast_rcnn"]["spec"]["dataset"]["proposals"]
    assert given == {"storageUri": "file:///zoo/proposals"}
    shown = cluster.kubectl("get", "zoo", "table", "-n", NAMESPACE).splitlines()
    assert shown[0].split()[:5] == ["NAME", "PHASE", "ROWS", "RUNNING", "FAILED"]
    assert shown[1].split()[:5] == ["table", "Running", "1/3", "2", "0"]
    zoo.end("smoke_fast_rcnn", boxAP=60.0)
    zoo.end("smoke_retinanet", boxAP=58.0)
    cluster.kubectl("wait", "--for=condition=Complete", "zoo/table", "-n", NAMESPACE, "--timeout=40s")
    rows = {row["recipe"]: row for row in zoo.status()["rows"]}
    assert rows["smoke_fast_rcnn"]["means"] == {"boxAP": 60.0}
    assert rows["smoke_fast_rcnn"]["verdict"] == "NotComparable"
    metric = 'kubedet_zoo_rows{name="table",namespace="kubedet-integration",phase="succeeded"} 3.0'
    assert metric in operator.get("/metrics")
    fields = "involvedObject.kind=ModelZoo,involvedObject.name=table"
    wait(
        lambda: (
            {"RowSucceeded", "RowsComplete"}
            <= {event["reason"] for event in cluster.items("events", "--field-selector", fields)}
        ),
        "Events of the rows and of the end",
        seconds=40,
    )


def test_what_is_changed_deleted_suspended_or_failed_meanwhile(
    make: Callable[..., Zoo], cluster: Any, operator: Any, wait: Callable[..., Any]
) -> None:
    zoo = make("life", rows={"recipes": ["smoke_retinanet", "smoke_ssd"]}, parallelism=2)
    zoo.wait_for_phases(smoke_retinanet="Running", smoke_ssd="Running")
    before = {recipe: job["metadata"]["uid"] for recipe, job in zoo.jobs().items()}
    name = zoo.jobs()["smoke_ssd"]["metadata"]["name"]
    cluster.kubectl("delete", "dj", name, "-n", NAMESPACE, "--wait=false")
    wait(
        lambda: (
            zoo.jobs().get("smoke_ssd", {"metadata": {"uid": before["smoke_ssd"]}})["metadata"]["uid"]
            != before["smoke_ssd"]
        ),
        "another job of the row",
    )
    zoo.change(suspend=True)
    wait(lambda: all(job["spec"].get("suspend") for job in zoo.jobs().values()), "both jobs suspended")
    zoo.wait_for_condition("Suspended", "True")
    assert operator.stop(signal.SIGKILL) != 0
    zoo.change(suspend=False)
    operator.start()
    operator.wait_until_ready()
    wait(
        lambda: not any(job["spec"].get("suspend") for job in zoo.jobs().values()),
        "both jobs resumed",
        seconds=40,
    )
    zoo.end("smoke_ssd", code=96)
    zoo.end("smoke_retinanet", boxAP=58.0)
    failed = zoo.wait_for_condition("Failed", "True")
    assert failed["reason"] == "RowsFailed"
    assert "smoke_ssd" in failed["message"]
    assert "loss is NaN" in failed["message"]
    cluster.kubectl("delete", "dj", name, "-n", NAMESPACE)
    zoo.wait_for_phases(smoke_retinanet="Succeeded", smoke_ssd="Running")
    zoo.end("smoke_ssd", boxAP=50.0)
    zoo.wait_for_condition("Complete", "True")
    assert zoo.jobs()["smoke_retinanet"]["metadata"]["uid"] == before["smoke_retinanet"], "trained once"

    zoo.change(changes=[{"recipe": "smoke_ssd", "spec": {"overrides": {"optimizer.lr": "0.005"}}}])
    zoo.wait_for_phases(smoke_retinanet="Succeeded", smoke_ssd="Running")
    zoo.end("smoke_ssd", boxAP=51.0)
    zoo.wait_for_condition("Complete", "True")
    cluster.kubectl("delete", "zoo", "life", "-n", NAMESPACE)
    # The garbage collector looks for new kinds every 30 s.
    wait(lambda: not zoo.jobs(), "the jobs gone with their zoo", seconds=90)


def test_what_the_object_itself_shows_is_refused_and_the_rest_is_told(
    make: Callable[..., Zoo], cluster: Any
) -> None:
    for spec, said in (
        ({"rows": {"recipes": []}}, "must have recipes or select"),
        ({"template": {"spec": {"worker": {"replicas": 0}}}}, "greater than or equal to 1"),
        ({"rows": {"select": [{"methods": ["yolo"]}]}}, 'Unsupported value: "yolo"'),
        ({"parallelism": 0}, "greater than or equal to 1"),
    ):
        with pytest.raises(RuntimeError) as refused:
            make("refused", **spec)
        assert said in str(refused.value)
    zoo = make("told", rows={"recipes": ["retinanet_r50_fpn_1"]})
    failed = zoo.wait_for_condition("Failed", "True")
    assert failed["reason"] == "InvalidSpec"
    assert "Did you mean 'retinanet_r50_fpn_1x'?" in failed["message"]
    zoo.change(rows={"recipes": ["smoke_retinanet"]})
    zoo.wait_for_phases(smoke_retinanet="Running")


def test_a_job_waits_for_the_job_whose_proposals_it_takes(make_job: Callable[..., Any], cluster: Any) -> None:
    fast = make_job(
        "takes",
        recipe="smoke_fast_rcnn",
        dataset={"storageUri": "synthetic://shapes", "proposals": {"fromJob": "gives"}},
    )
    waiting = fast.wait_for_condition("Initialized", "False", "WaitingForProposals")
    assert "job gives, whose proposals this job takes, does not exist yet" in waiting["message"]
    rpn = make_job(
        "gives",
        recipe="smoke_rpn",
        writeProposals=True,
        checkpoint={"storageUri": "file:///rpn", "secretRef": {"name": "minio"}},
    )
    rpn.wait_for_pod()
    assert fast.pod() is None
    results = contract.Results(ar1000=60.0, proposalsUri="file:///rpn/proposals")
    rpn.run()
    rpn.end(0, contract.dump_termination_message(results=results))
    fast.wait_for_pod()
    pod = fast.pod()
    assert pod is not None
    given = {variable["name"]: variable for variable in pod["spec"]["containers"][0]["env"]}
    assert given["KUBEDET_PROPOSALS_URI"]["value"] == "file:///rpn/proposals"
    secret = given["KUBEDET_PROPOSALS_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]
    assert (secret["name"], secret["key"]) == ("minio", "accessKey")
    assert fast.status()["proposals"]["storageUri"] == "file:///rpn/proposals"
