"""What Prometheus is told of zoos."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from kubedet_operator.telemetry.zoo_metrics import ZooCollector
from zoo_simulation import ZooSimulation, make_zoo

ZOO = {"namespace": "default", "name": "zoo"}


def test_rows_by_phase_and_the_difference_of_the_table_are_exposed_and_go_with_the_zoo() -> None:
    zoo = ZooSimulation(rows={"recipes": ["retinanet_r50_fpn_1x", "ssd300_coco"]})
    zoo.settle()
    zoo.succeed("retinanet_r50_fpn_1x", boxAP=36.0, reference={"boxAP": 35.6})
    zoo.settle()
    assert zoo.zoo is not None
    zoos = [zoo.zoo, make_zoo(name="new")]
    registry = CollectorRegistry()
    registry.register(ZooCollector(lambda: zoos))
    phases = {
        phase: registry.get_sample_value("kubedet_zoo_rows", {**ZOO, "phase": phase})
        for phase in ("pending", "running", "succeeded", "failed")
    }
    assert phases == {"pending": 0, "running": 1, "succeeded": 1, "failed": 0}
    assert registry.get_sample_value("kubedet_zoo_difference", {**ZOO, "metric": "boxAP"}) == 0.4
    new = {"namespace": "default", "name": "new", "phase": "pending"}
    assert registry.get_sample_value("kubedet_zoo_rows", new) == 0
    zoos.clear()
    assert registry.get_sample_value("kubedet_zoo_rows", {**ZOO, "phase": "running"}) is None


def test_an_odd_status_costs_no_other_zoo_its_figures() -> None:
    odd = {"metadata": {"namespace": "default", "name": "odd"}, "status": {"differences": {"boxAP": {}}}}
    fine = {"metadata": {"namespace": "default", "name": "fine"}, "status": {"counts": {"running": 2}}}
    unreadable: list[None] = []
    collector = ZooCollector(lambda: [odd, fine], unreadable=lambda: unreadable.append(None))
    values = {
        sample.labels["name"]: sample.value for family in collector.collect() for sample in family.samples
    }
    assert set(values) == {"fine"}
    assert unreadable == [None]
