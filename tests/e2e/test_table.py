"""A table on real nodes: a job deleted, the operator killed, suspended, a row corrected, its page at the end.

The long form has all small recipes: `KUBEDET_ZOO_RECIPES=all KUBEDET_ZOO_EPOCHS=4`.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from cluster_jobs import NAMESPACE, status_of, wait_for
from kubedet_trainer.contract import catalogue

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(5400)]

ZOO = "table"
BREAKING, CORRECT = "1000000000", "0.001"
"""Learning rates of the SSD: with the first its loss is infinite after some steps."""

RECIPES = os.environ.get("KUBEDET_ZOO_RECIPES", "smoke_rpn,smoke_fast_rcnn,smoke_ssd")
EPOCHS = os.environ.get("KUBEDET_ZOO_EPOCHS", "1")
IMAGES = "images=64&val_images=16&size=160x120"
MINUTES = 60


def _zoo(job: str, lr: str) -> dict[str, Any]:
    """The table, whose template is the usual job of these tests on generated shapes."""
    template = yaml.safe_load(job)["spec"]
    template.pop("recipe")
    template["dataset"] = {"storageUri": f"synthetic://shapes?{IMAGES}"}
    recipes = catalogue.SMOKE_NAMES if RECIPES == "all" else RECIPES.split(",")
    return {
        "apiVersion": "kubedet.dev/v1alpha1",
        "kind": "ModelZoo",
        "metadata": {"name": ZOO, "namespace": NAMESPACE},
        "spec": {
            "rows": {"recipes": list(recipes)},
            "parallelism": 2,
            "template": {"spec": template},
            "changes": [
                {"recipe": "smoke_rpn", "repeats": 2},
                {"recipe": "smoke_ssd", "spec": {"overrides": {"optimizer.lr": lr}}},
            ],
        },
    }


class _Table:
    """The zoo as the cluster has it."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self._cluster.get("zoo", ZOO).get("status", {})
        return found

    def condition(self, kind: str) -> dict[str, Any]:
        conditions = {item["type"]: item for item in self.status().get("conditions", ())}
        return dict(conditions.get(kind, {}))

    def phases(self) -> dict[str, str]:
        return {row["recipe"]: row["phase"] for row in self.status().get("rows", ())}

    def uids(self) -> dict[str, str]:
        jobs = self._cluster.get("dj", "-l", f"kubedet.dev/zoo={ZOO}")["items"]
        return {job["metadata"]["name"]: job["metadata"]["uid"] for job in jobs}

    def workers(self) -> list[str]:
        """The worker pods of all its jobs."""
        jobs = self.uids()
        pods = self._cluster.get("pods", "-l", "app.kubernetes.io/component=worker")["items"]
        return [
            pod["metadata"]["name"]
            for pod in pods
            if pod["metadata"]["labels"]["kubedet.dev/job-name"] in jobs
        ]

    def picture(self, title: str) -> None:
        print(f"\n--- {title}\n{self._cluster.kubectl('get', 'zoo,dj', '-n', NAMESPACE)}", flush=True)


def test_a_table_ends_with_its_page_whatever_happens_meanwhile(
    operator: Any, object_store: Any, job_manifest: Callable[..., str]
) -> None:
    overrides = f'{{schedule.epochs: "{EPOCHS}", schedule.decay_epochs: "1", data.num_workers: "0"}}'
    job = job_manifest(ZOO, OVERRIDES=overrides, MORE="backoffLimit: 3")
    table, began = _Table(operator), time.monotonic()
    operator.apply(yaml.safe_dump(_zoo(job, BREAKING)))
    wait_for(lambda: table.phases().get("smoke_rpn") == "Running", 120, "the first row to run")
    wait_for(table.workers, 60, "its worker")
    table.picture("begun")

    deleted = f"{ZOO}-smoke-rpn"
    before = table.uids()[deleted]
    operator.kubectl("delete", "dj", deleted, "-n", NAMESPACE)
    operators = ("app.kubernetes.io/name=kubedet", "app.kubernetes.io/component=operator")
    killing = ("delete", "pods", "-n", NAMESPACE, "--force", "--grace-period=0", "-l", ",".join(operators))
    operator.kubectl(*killing)
    wait_for(lambda: table.uids().get(deleted, before) != before, 180, "another job of the deleted one's row")

    patch = ("patch", "zoo", ZOO, "-n", NAMESPACE, "--type=merge", "-p")
    operator.kubectl(*patch, json.dumps({"spec": {"suspend": True}}))
    wait_for(lambda: table.condition("Suspended").get("status") == "True", 120, "the zoo suspended")
    wait_for(lambda: not table.workers(), 120, "no worker left")
    table.picture("suspended")
    operator.kubectl(*patch, json.dumps({"spec": {"suspend": False}}))

    failed = wait_for(lambda: _if_true(table.condition("Failed")), 60 * MINUTES, "the end of all rows")
    table.picture("one row has failed")
    assert "smoke_ssd" in failed["message"]
    assert Counter(table.phases().values())["Failed"] == 1
    done = table.uids()
    operator.apply(yaml.safe_dump(_zoo(job, CORRECT)))
    operator.kubectl("wait", "--for=condition=Complete", "-n", NAMESPACE, f"zoo/{ZOO}", "--timeout=1200s")
    table.picture(f"complete after {time.monotonic() - began:.0f} s")

    runs = {run["job"]: run for row in table.status()["rows"] for run in row["runs"]}
    again = {deleted: 2}
    assert {name: run["attempts"] for name, run in runs.items()} == {
        name: again.get(name, 1) for name in runs
    }
    ssd = f"{ZOO}-smoke-ssd"
    assert {name for name, uid in table.uids().items() if uid != done[name]} == {ssd}, "trained once"
    _check_page(object_store, table)
    _measure_again(operator, job, runs[deleted]["results"])
    operator.kubectl("delete", "zoo", ZOO, "-n", NAMESPACE)


def _measure_again(cluster: Any, job: str, trained: dict[str, Any]) -> None:
    """A job that measures the weights of the RPN finds the recall that its row has."""
    name = "measured"
    zoo = _zoo(job, CORRECT)
    spec = zoo["spec"]["template"]["spec"] | {
        "recipe": "smoke_rpn",
        "task": "Measure",
        "pretrained": {"storageUri": trained["modelUri"]},
        "checkpoint": {"storageUri": f"s3://checkpoints/{name}", "secretRef": {"name": "minio"}},
        "benchmark": {"images": 10, "iterations": 5},
    }
    metadata = {"name": name, "namespace": NAMESPACE}
    cluster.apply(yaml.safe_dump({**zoo, "kind": "DetectionJob", "metadata": metadata, "spec": spec}))
    cluster.kubectl("wait", "--for=condition=Complete", "-n", NAMESPACE, f"dj/{name}", "--timeout=600s")
    measured = status_of(cluster, name)["results"]
    print(f"\ntrained: {trained}\nmeasured: {measured}")
    assert (measured["task"], measured["ar1000"]) == ("Measure", trained["ar1000"])
    assert measured["ar1000"] > 0


def _if_true(condition: dict[str, Any]) -> dict[str, Any] | None:
    return condition if condition.get("status") == "True" else None


def _check_page(object_store: Any, table: _Table) -> None:
    """The page shows the row that was corrected, too: it is written again for that."""
    client = object_store.client()
    folder = table.status()["reportUri"].removeprefix("s3://checkpoints/").rpartition("/")[0]
    succeeded = dict.fromkeys(table.phases(), "Succeeded")

    def shown() -> dict[str, str]:
        zoo = json.loads(client.get_object("checkpoints", f"{folder}/zoo.json").read())
        return {row["recipe"]: row["phase"] for row in zoo["rows"]}

    wait_for(lambda: shown() == succeeded, 180, "the page of all rows")
    print(f"\n{table.condition('PageWritten')['message']}")
    page = client.get_object("checkpoints", f"{folder}/MODEL_ZOO.md").read().decode()
    assert [recipe for recipe in succeeded if recipe.replace("_", "\\_") not in page] == []
    if kept := os.environ.get("KUBEDET_ZOO_PAGE"):
        client.fget_object("checkpoints", f"{folder}/index.html", kept)
