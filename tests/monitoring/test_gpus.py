"""GPUs on the dashboards: a real Prometheus scrapes exporters that tell DCGM's metrics."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import yaml

import dcgm_exporter
import fleet_history
from http_servers import serve
from monitoring import build, check, gpus
from monitoring.panels import Row
from monitoring.prometheus import Prometheus, View
from monitoring.zoo import ZOO

FILES = build.ROOT / build.CHART_FILES
_EXPORTER = {"namespace": "gpu-operator", "pod": dcgm_exporter.POD, "container": "nvidia-dcgm-exporter"}
"""What Kubernetes' discovery puts on every sample of the exporter."""


@pytest.fixture(scope="module")
def fleet() -> fleet_history.Fleet:
    """At its end: a worker on each of two machines, a notebook on the third."""
    fleet = fleet_history.Fleet(start=time.time() - fleet_history.SECONDS)
    fleet.elapsed = fleet_history.SECONDS - fleet_history.STEP
    fleet.advance()
    return fleet


@pytest.fixture(scope="module")
def scraping(
    fleet: fleet_history.Fleet,
    start_prometheus: Callable[[Path], AbstractContextManager[Prometheus]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Prometheus]:
    """A Prometheus that scrapes all of them each second, and evaluates the alerts.

    It honours the labels of two exporters, as the GPU operator can be told to, and not those of the third.
    """
    folder = tmp_path_factory.mktemp("scraping")
    with contextlib.ExitStack() as stack:
        targets = [_target("operator", _serve_registry(stack, fleet.operator.registry), honour=True)]
        for index, registry in enumerate(fleet.workers):
            labels = {"name": fleet_history.JOB, "namespace": fleet_history.NAMESPACE}
            labels["pod"] = f"{fleet_history.JOB}-worker-{index}"
            targets.append(
                _target(f"worker-{index}", _serve_registry(stack, registry), honour=True, labels=labels)
            )
        for number, machine in enumerate(fleet.gpus):
            port = stack.enter_context(serve(dcgm_exporter.answers(machine)))
            targets.append(_target(f"dcgm-{number}", port, honour=number != 1, labels=_EXPORTER))
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(FILES / "rules.yaml")],
            "scrape_configs": targets,
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        prometheus = stack.enter_context(start_prometheus(folder))
        _await_scrapes(prometheus, len(targets))
        yield prometheus


def _target(name: str, port: int, *, honour: bool, labels: dict[str, str] | None = None) -> dict[str, Any]:
    static = {"targets": [f"127.0.0.1:{port}"], "labels": labels or {}}
    return {"job_name": name, "honor_labels": honour, "static_configs": [static]}


def _serve_registry(stack: contextlib.ExitStack, registry: prometheus_client.CollectorRegistry) -> int:
    server, thread = prometheus_client.start_http_server(0, "127.0.0.1", registry)
    stack.callback(thread.join)
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    port: int = server.server_port
    return port


def _await_scrapes(prometheus: Prometheus, targets: int) -> None:
    """Wait for several samples of each, and for the rules."""
    end = time.monotonic() + 60
    wanted = [
        f"count(count_over_time(up[1m]) > 3) == {targets}",
        "sum(up) == " + str(targets),
        "count(ALERTS)",
    ]
    while not all(prometheus.query(query, _now()) for query in wanted):
        assert time.monotonic() < end, [prometheus.query("up", _now()), wanted]
        time.sleep(0.2)


def _now() -> View:
    return View(end=time.time(), seconds=20, rate_seconds=5)


def _values(prometheus: Prometheus, row: Row, title: str) -> dict[str, float]:
    """What a panel shows, by the legends of its targets, or by pod and GPU where the series have them."""
    (panel,) = [panel for panel in row.panels if panel.title == title]
    found = {}
    for target in panel.targets:
        for series in prometheus.query(target.expr, _now()):
            gpu = " ".join(series.labels[label] for label in ("pod", "gpu") if label in series.labels)
            found[gpu or target.legend] = series.newest
    return found


def test_every_panel_of_gpus_and_alerts_has_data(scraping: Prometheus) -> None:
    findings = check.check_queries(scraping, _now(), files=FILES)
    asked = [found for found in findings if "DCGM" in found.query.expr or "ALERTS" in found.query.expr]
    assert len(asked) > 15
    assert [found.query.where for found in asked if found.verdict != "data"] == []


def test_gpus_are_counted_by_what_holds_them(scraping: Prometheus) -> None:
    assert _values(scraping, gpus.FLEET_ROW, "GPUs by use") == {
        "all": 24,
        "free": 7,
        "held by jobs": 16,
        "held by jobs, idle": 1,
        "held by others": 1,
    }


def test_a_gpu_belongs_to_the_job_whose_pod_holds_it_however_the_exporter_is_scraped(
    scraping: Prometheus, fleet: fleet_history.Fleet
) -> None:
    shown = _values(scraping, gpus.JOB_ROW, "GPU utilisation")
    expected = {
        f"{gpu.pod} {gpu.index}": gpu.utilisation
        for machine in fleet.gpus
        for gpu in machine
        if gpu.pod.startswith(fleet_history.JOB)
    }
    assert len(expected) == 16
    assert shown == expected


def test_memory_power_temperature_and_nvlink_are_in_base_units(scraping: Prometheus) -> None:
    first = f"{fleet_history.JOB}-worker-0 0"
    memory = _values(scraping, gpus.JOB_ROW, "GPU memory in use")[first]
    assert memory == pytest.approx(60_400 / 143_000)
    assert _values(scraping, gpus.JOB_ROW, "GPU power")[first] == pytest.approx(75 + 520 * 0.9)
    assert _values(scraping, gpus.JOB_ROW, "GPU temperature")[first] == pytest.approx(31 + 40 * 0.9)
    link = _values(scraping, gpus.JOB_ROW, "NVLink")[first]
    assert link == pytest.approx(150_000 * 0.9 * 1024 * 1000)


def test_errors_are_told_with_machine_and_pod(scraping: Prometheus) -> None:
    (panel,) = [panel for panel in gpus.FLEET_ROW.panels if panel.title == "Errors of GPUs"]
    (xid,) = scraping.query(panel.targets[0].expr, _now())
    assert xid.newest == 63
    assert (xid.labels["Hostname"], xid.labels["gpu"]) == ("gpu-node-1", "5")
    assert xid.labels["pod"] == f"{fleet_history.JOB}-worker-1"
    assert xid.labels["modelName"] == dcgm_exporter.MODEL


def test_a_failed_row_of_a_zoo_is_among_the_firing_alerts(scraping: Prometheus) -> None:
    (panel,) = [panel for panel in ZOO.panels() if panel.title == "Firing alerts"]
    names = {series.labels["alertname"] for series in scraping.query(panel.targets[0].expr, _now())}
    assert names == {"KubedetZooRowsFailed"}


def test_without_the_exporter_there_are_no_figures_and_none_are_made_up(
    prometheus: Prometheus, view: View
) -> None:
    before = View(end=view.end - view.seconds - 3600, seconds=60)
    for panel in gpus.FLEET_ROW.panels:
        for target in panel.targets:
            assert prometheus.query(target.expr, before) == [], panel.title
    assert prometheus.query(gpus.FREE.expr, before) == []
