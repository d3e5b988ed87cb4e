"""What Prometheus and the readiness probe are told."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kubedet_operator.api import names
from kubedet_operator.cluster.cache import Cache
from kubedet_operator.telemetry import endpoint
from kubedet_operator.telemetry.health import Health
from kubedet_operator.telemetry.job_metrics import JOB_TABLE
from kubedet_operator.telemetry.metrics import TABLE, Metrics

JOB: dict[str, Any] = {
    "metadata": {
        "namespace": "team-a",
        "name": "mask",
        "creationTimestamp": "2026-01-01T00:00:05Z",
        "uid": "mask-1",
        "resourceVersion": "7",
        "ownerReferences": [{"kind": "ModelZoo", "name": "nightly", "uid": "zoo-1", "controller": True}],
    },
    "spec": {
        "recipe": "mask_rcnn_r50_fpn_1x",
        "worker": {"gpus": 4},
        "checkpoint": {"intervalSeconds": 600},
        "schedulingPolicy": {"queue": "vision"},
    },
    "status": {
        "phase": "Succeeded",
        "workers": {"active": 2},
        "progress": {"stage": "Training", "epoch": 3, "percentage": 80, "estimatedRemainingSeconds": 12},
        "restarts": {"application": 1, "infrastructure": 2, "process": 3},
        "lastFailure": {"time": "2026-01-01T00:00:10Z", "class": "Application", "reason": "Hang"},
        "checkpoint": {"time": "2026-01-01T00:00:00Z"},
        "results": {"boxAP": 37.4, "reference": {"boxAP": 37.3, "imagesPerSecond": 9}},
        "gpuSeconds": 7200.5,
        "reason": "RowComplete",
    },
}
NEW_YEAR = 1767225600


@pytest.fixture
def jobs() -> list[dict[str, Any]]:
    """As the operator keeps them: the cache drops what decisions do not need."""
    cache = Cache(lambda _: None, lambda _: None)
    cache.store_job({"apiVersion": names.API_VERSION, "kind": names.KIND, **JOB})
    return cache.jobs()


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def port(jobs: list[dict[str, Any]], health: Health) -> Iterator[int]:
    metrics = Metrics()
    metrics.expose(jobs=lambda: jobs, zoos=list, clock=lambda: datetime.now(UTC))
    server = endpoint.serve(0, metrics=metrics, health=health)
    yield server.server_port
    server.shutdown()
    server.server_close()


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def samples(port: int) -> dict[str, float]:
    families = text_string_to_metric_families(get(port, "/metrics")[1])
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in families
        for sample in family.samples
    }


def test_a_job_s_figures_are_its_status_s_and_go_with_it(port: int, jobs: list[dict[str, Any]]) -> None:
    whose = [("name", "mask"), ("namespace", "team-a")]
    found = samples(port)
    assert found[f"kubedet_job_progress_ratio{whose}"] == 0.8
    assert found[f"kubedet_job_eta_seconds{whose}"] == 12
    assert found[f"kubedet_job_result{[('metric', 'boxAP'), *whose]}"] == 37.4
    assert found["kubedet_operator_jobs[('phase', 'Succeeded')]"] == 1
    assert found[f"kubedet_job_gpus{whose}"] == 8
    assert found[f"kubedet_job_epoch{whose}"] == 3
    assert found[f"kubedet_job_stage{[*whose, ('stage', 'Training')]}"] == 1
    assert found[f"kubedet_job_checkpoint_timestamp_seconds{whose}"] == NEW_YEAR
    assert found[f"kubedet_job_checkpoint_interval_seconds{whose}"] == 600
    for charged, count in (("Application", 1), ("Infrastructure", 2), ("Process", 3)):
        assert found[f"kubedet_job_restarts_total{[('class', charged), *whose]}"] == count
    failed = [("class", "Application"), *whose, ("reason", "Hang")]
    assert found[f"kubedet_job_last_failure_timestamp_seconds{failed}"] == NEW_YEAR + 10
    assert found[f"kubedet_job_published{[('metric', 'boxAP'), *whose]}"] == 37.3
    assert not any("imagesPerSecond" in name for name in found), "no column of the row"
    assert found[f"kubedet_job_gpu_seconds_total{whose}"] == 7200.5
    assert found[f"kubedet_job_created_timestamp_seconds{whose}"] == NEW_YEAR + 5
    assert found[f"kubedet_job_status_reason{[*whose, ('reason', 'RowComplete')]}"] == 1
    info = [*whose, ("queue", "vision"), ("recipe", "mask_rcnn_r50_fpn_1x"), ("zoo", "nightly")]
    assert found[f"kubedet_job_info{info}"] == 1
    jobs.clear()
    assert not [name for name in samples(port) if name.startswith("kubedet_job_")]


def test_a_straggler_is_told_with_its_worker_and_node_while_there_is_one(
    port: int, jobs: list[dict[str, Any]]
) -> None:
    slow = {"rank": 3, "pod": "mask-worker-1", "ratio": 1.8, "since": "2026-01-01T00:00:00Z"}
    jobs[:] = [{**JOB, "status": {"phase": "Running", "straggler": {**slow, "node": "gpu-7"}}}]
    whose = [("name", "mask"), ("namespace", "team-a")]
    labels = [*whose, ("node", "gpu-7"), ("rank", "3"), ("worker", "mask-worker-1")]
    assert samples(port)[f"kubedet_job_straggler_ratio{labels}"] == 1.8
    jobs[:] = [JOB]
    assert not any("straggler" in name for name in samples(port))


def test_jobs_that_a_node_has_broken_lately_are_counted_ended_ones_too(
    port: int, jobs: list[dict[str, Any]]
) -> None:
    def broken(name: str, age: timedelta, phase: str, code: int = 152) -> dict[str, Any]:
        failure = {"class": "Application", "reason": "Hang", "node": "gpu-7", "exitCode": code}
        failure["time"] = (datetime.now(UTC) - age).isoformat()
        metadata = {"namespace": "n", "name": name}
        return {"metadata": metadata, "spec": {}, "status": {"phase": phase, "failureHistory": [failure]}}

    jobs[:] = [
        broken("a", timedelta(minutes=5), "Running"),
        broken("b", timedelta(minutes=50), "Failed"),
        broken("old", timedelta(minutes=70), "Running"),
        broken("own-fault", timedelta(minutes=5), "Failed", code=65),
    ]
    found = {name: value for name, value in samples(port).items() if "suspect_nodes" in name}
    assert found == {f"kubedet_operator_suspect_nodes{[('node', 'gpu-7')]}": 2}


def test_jobs_that_avoid_a_node_are_counted_as_long_as_they_do(port: int, jobs: list[dict[str, Any]]) -> None:
    def avoid(name: str, until: str, phase: str = "Running") -> dict[str, Any]:
        node = {"name": "gpu-7", "mode": "Required", "reason": "GpuLost", "until": until}
        metadata = {"namespace": "team-a", "name": name}
        return {"metadata": metadata, "spec": {}, "status": {"phase": phase, "excludedNodes": [node]}}

    later = "2999-01-01T00:00:00Z"
    jobs[:] = [
        avoid("a", later),
        avoid("b", later),
        avoid("over", "2026-01-01T00:00:00Z"),
        avoid("ended", later, "Failed"),
    ]
    labels = [("mode", "Required"), ("node", "gpu-7"), ("reason", "GpuLost")]
    found = {name: value for name, value in samples(port).items() if "excluded_nodes" in name}
    assert found == {f"kubedet_operator_excluded_nodes{labels}": 2}


def test_time_is_carried_on_where_it_is_certain_what_it_goes_into(
    port: int, jobs: list[dict[str, Any]]
) -> None:
    created = {"creationTimestamp": "2026-01-01T00:00:00Z"}
    jobs[:] = [
        {
            "metadata": {"namespace": "team-a", "name": phase, **created},
            "status": {"time": {"phase": phase, "seconds": {"starting": 20.5}}},
        }
        for phase in ("pending", "running", "ended")
    ]
    before = time.time() - datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    found = samples(port)

    def seconds(name: str) -> dict[str, float]:
        whose = [("name", name), ("namespace", "team-a")]
        phases = ("pending", "starting", "training")
        series = {phase: f"kubedet_job_time_seconds_total{[*whose, ('phase', phase)]}" for phase in phases}
        return {phase: found[key] for phase, key in series.items() if key in found}

    assert seconds("running") == seconds("ended") == {"pending": 0, "starting": 20.5, "training": 0}
    assert before <= sum(seconds("pending").values()) <= before + 60


def test_a_job_that_has_only_been_created_is_told_too(port: int, jobs: list[dict[str, Any]]) -> None:
    jobs[:] = [{"metadata": {"namespace": "team-a", "name": "mask"}, "spec": {"recipe": "ssd300_coco"}}]
    whose = [("name", "mask"), ("namespace", "team-a")]
    found = samples(port)
    assert found[f"kubedet_job_info{[*whose, ('queue', ''), ('recipe', 'ssd300_coco'), ('zoo', '')]}"] == 1
    assert found[f"kubedet_job_gpus{whose}"] == 0
    assert found[f"kubedet_job_restarts_total{[('class', 'Process'), *whose]}"] == 0
    assert not [name for name in found if name.startswith(("kubedet_job_last_failure", "kubedet_job_stage"))]


def test_a_time_that_is_none_keeps_no_other_job_from_a_scrape(port: int, jobs: list[dict[str, Any]]) -> None:
    metadata = {**JOB["metadata"], "name": "odd"}
    jobs.append({**JOB, "metadata": metadata, "status": {"checkpoint": {"time": "yesterday"}}})
    assert samples(port)["kubedet_operator_jobs[('phase', 'Pending')]"] == 1


def test_every_recorded_metric_is_exposed_and_only_jobs_carry_names(port: int) -> None:
    text = get(port, "/metrics")[1]
    for series in TABLE.values():
        assert f"# TYPE {series.name} {series.kind}" in text
        assert not {"name", "namespace", "pod", "uid"} & set(series.labels)


def test_every_series_of_a_job_is_exposed_with_its_kind(port: int) -> None:
    text = get(port, "/metrics")[1]
    for series in JOB_TABLE.values():
        assert f"# TYPE {series.name} {series.kind}" in text


def test_a_replica_is_ready_once_it_knows_the_world(port: int, health: Health) -> None:
    assert get(port, "/readyz")[0] == 503
    health.ready = True
    assert get(port, "/readyz") == (200, "ok")
    assert get(port, "/nowhere")[0] == 404


@pytest.mark.parametrize(
    "status",
    [
        {"time": {}},
        {"time": {"phase": "pending", "seconds": {"training": "x"}}},
        {"restarts": {"application": "many"}},
        {"lastFailure": {}},
        {"progress": []},
        {"phase": "Enchanted"},
        {"excludedNodes": ["gpu-7"]},
        {"gpuSeconds": "many"},
    ],
)
def test_an_odd_status_of_another_controller_costs_no_other_job_its_figures(
    port: int, jobs: list[dict[str, Any]], status: dict[str, Any]
) -> None:
    metadata = {"namespace": "team-a", "name": "odd", "creationTimestamp": "2026-01-01T00:00:00Z"}
    jobs.insert(0, {"metadata": metadata, "spec": {"managedBy": "other.dev/controller"}, "status": status})
    found = samples(port)
    assert found["kubedet_job_progress_ratio[('name', 'mask'), ('namespace', 'team-a')]"] == 0.8
    assert found["kubedet_operator_jobs[('phase', 'Pending')]"] == 1
    assert not any("Enchanted" in name for name in found)
