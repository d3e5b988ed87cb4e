"""What Prometheus is told of zoos."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry

from kubedet_operator.telemetry.manifests import Manifest, ManifestCollector
from kubedet_operator.telemetry.zoo_metrics import ZOO_READERS, ZOO_TABLE
from zoo_simulation import ZooSimulation, make_zoo

ZOO = {"namespace": "default", "name": "zoo"}


def collect(zoos: list[Any], unreadable: Callable[[], None] = lambda: None) -> ManifestCollector:
    manifests: list[Manifest] = zoos
    return ManifestCollector(ZOO_TABLE, lambda: manifests, ZOO_READERS, unreadable=unreadable)


def test_rows_by_phase_and_the_difference_of_the_table_are_exposed_and_go_with_the_zoo() -> None:
    zoo = ZooSimulation(rows={"recipes": ["retinanet_r50_fpn_1x", "ssd300_coco"]})
    zoo.settle()
    zoo.succeed("retinanet_r50_fpn_1x", boxAP=36.0, reference={"boxAP": 35.6})
    zoo.settle()
    assert zoo.zoo is not None
    zoos = [zoo.zoo, make_zoo(name="new")]
    registry = CollectorRegistry()
    registry.register(collect(zoos))
    phases = {
        phase: registry.get_sample_value("kubedet_zoo_rows", {**ZOO, "phase": phase})
        for phase in ("pending", "running", "succeeded", "failed")
    }
    assert phases == {"pending": 0, "running": 1, "succeeded": 1, "failed": 0}
    assert registry.get_sample_value("kubedet_zoo_difference", {**ZOO, "metric": "boxAP"}) == 0.4
    row = {**ZOO, "recipe": "retinanet_r50_fpn_1x"}
    for figure, value in (("result", 36.0), ("published", 35.6), ("difference", 0.4)):
        found = registry.get_sample_value(f"kubedet_zoo_row_{figure}", {**row, "metric": "boxAP"})
        assert found == value, figure
    assert (
        registry.get_sample_value("kubedet_zoo_row", {**row, "phase": "Succeeded", "verdict": "Equal"}) == 1
    )
    waiting = {**ZOO, "recipe": "ssd300_coco", "phase": "Running", "verdict": ""}
    assert registry.get_sample_value("kubedet_zoo_row", waiting) == 1
    assert registry.get_sample_value("kubedet_zoo_difference_rows", {**ZOO, "metric": "boxAP"}) == 1
    assert registry.get_sample_value("kubedet_zoo_status_phase", {**ZOO, "phase": "Running"}) == 1
    new = {"namespace": "default", "name": "new", "phase": "pending"}
    assert registry.get_sample_value("kubedet_zoo_rows", new) == 0
    zoos.clear()
    assert registry.get_sample_value("kubedet_zoo_rows", {**ZOO, "phase": "running"}) is None


def test_an_odd_status_costs_no_other_zoo_its_figures() -> None:
    odd = {"metadata": {"namespace": "default", "name": "odd"}, "status": {"differences": {"boxAP": {}}}}
    fine = {"metadata": {"namespace": "default", "name": "fine"}, "status": {"counts": {"running": 2}}}
    unreadable: list[None] = []
    collector = collect([odd, fine], lambda: unreadable.append(None))
    values = {
        sample.labels["name"]: sample.value for family in collector.collect() for sample in family.samples
    }
    assert set(values) == {"fine"}
    assert unreadable == [None]


def test_a_page_that_cannot_be_written_is_told_with_its_reason() -> None:
    page = {"type": "PageWritten", "status": "False", "reason": "PageFailed"}
    zoo = {
        "metadata": ZOO,
        "status": {"conditions": [{"type": "Running", "status": "True", "reason": "JobsExist"}, page]},
    }
    registry = CollectorRegistry()
    registry.register(collect([zoo]))
    assert registry.get_sample_value("kubedet_zoo_page_written", {**ZOO, "reason": "PageFailed"}) == 0
    page |= {"status": "True", "reason": "RowsShown"}
    assert registry.get_sample_value("kubedet_zoo_page_written", {**ZOO, "reason": "RowsShown"}) == 1


def test_a_row_that_cannot_be_read_leaves_the_table_its_totals() -> None:
    status = {"counts": {"failed": 3}, "rows": [{"recipe": "ssd300_coco"}]}
    registry = CollectorRegistry()
    registry.register(collect([{"metadata": ZOO, "status": status}]))
    assert registry.get_sample_value("kubedet_zoo_rows", {**ZOO, "phase": "failed"}) == 3
