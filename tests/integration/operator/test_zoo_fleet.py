"""Tables of many rows next to single jobs, on fake nodes of 8 GPUs, which end every pod with a row."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kubedet_trainer import contract
from kubedet_trainer.contract import catalogue
from onlooker import Onlooker
from zoo_simulation import make_zoo

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]

NAMESPACE = "kubedet-zoos"
ZOOS = int(os.environ.get("KUBEDET_FLEET_ZOOS", "2"))
ROWS = int(os.environ.get("KUBEDET_FLEET_ROWS", "6"))
JOBS = int(os.environ.get("KUBEDET_FLEET_JOBS", "4"))
"""An acceptance run takes 10 zoos of 95 rows and 200 jobs."""
TRAINING = os.environ.get("KUBEDET_FLEET_TRAINING", "1s")
"""For how long each worker runs."""

PARALLELISM = 16
MOST_STATUS_BYTES = 512 * 1024
"""A third of what etcd takes as one object."""
LONGEST_LATE_SECONDS = 30
RESULTS = contract.Results(boxAP=36.5, ar1000=57.0, proposalsUri="file:///zoo/proposals")
ENDING = {
    "fake.kubedet/complete-after": TRAINING,
    "fake.kubedet/message": contract.dump_termination_message(results=RESULTS),
}


def _recipes() -> list[str]:
    """The recipes that depend on others, each after the one it depends on, then all the rest."""
    dependent = [name for name in catalogue.NAMES if catalogue.proposal_recipe(name)]
    pairs = [name for fast in dependent for name in (str(catalogue.proposal_recipe(fast)), fast)]
    return list(dict.fromkeys([*pairs, *catalogue.NAMES]))[:ROWS]


def _build_zoo(name: str) -> dict[str, Any]:
    template = {
        "dataset": {"storageUri": "s3://datasets/coco2017"},
        "checkpoint": {"storageUri": "file:///zoo"},
        "worker": {"gpus": 8, "template": {"metadata": {"annotations": ENDING}}},
    }
    spec = {"rows": {"recipes": _recipes()}, "parallelism": PARALLELISM, "template": {"spec": template}}
    return make_zoo(name=name, namespace=NAMESPACE, **spec)


def test_every_row_is_trained_once_and_after_the_row_whose_proposals_it_needs(
    make_fleet: Callable[[str], Any],
    make_operator: Callable[..., Any],
    cluster: Any,
    wait: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    fleet = make_fleet(NAMESPACE)
    kubectl = [cluster.kubectl_path, "--kubeconfig", cluster.kubeconfig]
    onlooker = Onlooker(kubectl, NAMESPACE, excused=lambda since, now: 0.0)
    operator = make_operator(Path(cluster.kubeconfig), namespace=NAMESPACE)
    operator.wait_until_ready()
    before, began = operator.metric("process_cpu_seconds_total"), time.monotonic()
    zoos = [f"zoo-{number}" for number in range(ZOOS)]
    cluster.apply(*(_build_zoo(name) for name in zoos))
    singles = [f"single-{number}" for number in range(JOBS)]
    for name in singles:
        cluster.apply(fleet.build(name, annotations=ENDING, worker={"gpus": 8, "replicas": 1}))
    trainings = ZOOS * ROWS + JOBS
    most_at_once: dict[str, int] = dict.fromkeys(zoos, 0)

    def ended() -> bool:
        tables = fleet.items("zoo")
        assert "Failed" not in map(_phase, tables.values())
        for name in zoos:
            running = tables[name].get("status", {}).get("counts", {}).get("running", 0)
            most_at_once[name] = max(most_at_once[name], running)
        over = len(onlooker.endings) == trainings
        return over and all(_phase(tables[name]) == "Succeeded" for name in zoos)

    wait(ended, "the end of all tables and jobs", seconds=2000)
    seconds = time.monotonic() - began
    late, latest = onlooker.worst()
    onlooker.stop()
    tables, jobs = fleet.items("zoo"), fleet.items("dj")
    sizes = [len(json.dumps(tables[name]["status"])) for name in zoos]
    with capsys.disabled():
        cpu_seconds = operator.metric("process_cpu_seconds_total") - before
        writes = {what: round(count / trainings, 2) for what, count in _writes(operator).items()}
        figures = {
            "zoos": ZOOS, "rows": ROWS, "jobs": JOBS,
            "seconds": round(seconds, 1),
            "latest_status_seconds": round(late, 1),
            "memory_mib": round(operator.metric("process_resident_memory_bytes") / 2**20, 1),
            "cpu_ms_per_job": round(1000 * cpu_seconds / trainings, 1),
            "largest_status_bytes": max(sizes),
            "writes_per_job": writes,
        }  # fmt: skip
        print("\n", json.dumps(figures))
    assert set(onlooker.endings.values()) == {("Succeeded", 0)}
    assert len(jobs) == trainings
    assert late < LONGEST_LATE_SECONDS, latest
    assert max(sizes) < MOST_STATUS_BYTES
    assert max(most_at_once.values()) <= PARALLELISM
    for name in zoos:
        runs = {row["recipe"]: row["runs"][0] for row in tables[name]["status"]["rows"]}
        assert {run["attempts"] for run in runs.values()} == {1}
        for recipe in runs:
            source = catalogue.proposal_recipe(recipe)
            if source in runs:
                end_of_source = jobs[runs[source]["job"]]["status"]["completionTime"]
                assert jobs[runs[recipe]["job"]]["metadata"]["creationTimestamp"] >= end_of_source, recipe
    cluster.kubectl("delete", "zoo", "--all", "-n", NAMESPACE)
    fleet.empty()


def _phase(item: Mapping[str, Any]) -> str:
    return str(item.get("status", {}).get("phase"))


def _writes(operator: Any) -> Counter[str]:
    """Requests that change something, by verb and resource."""
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(operator.get("/metrics")):
        if family.name == "kubedet_operator_api_requests":
            for sample in family.samples:
                if sample.name.endswith("_total") and sample.labels["verb"] not in ("get", "list", "watch"):
                    found[f"{sample.labels['verb']} {sample.labels['resource']}"] += int(sample.value)
    return found
