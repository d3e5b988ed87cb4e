"""The dashboards and rules against a real Prometheus that knows three hours of a fleet."""

from __future__ import annotations

import dataclasses

import pytest

import fleet_history
from monitoring import build, check
from monitoring.check import Finding
from monitoring.prometheus import Prometheus, View

FILES = build.ROOT / build.CHART_FILES


@pytest.fixture(scope="session")
def findings(prometheus: Prometheus, view: View) -> list[Finding]:
    return check.check_queries(prometheus, view, files=FILES)


def test_every_panel_gets_data_and_every_rule_all_that_it_asks_for(findings: list[Finding]) -> None:
    lacking = [
        (found.query.where, found.query.expr, found.reason)
        for found in findings
        if found.verdict == "no data"
    ]
    assert lacking == []
    empty = {found.query.where for found in findings if found.verdict == "rightly empty"}
    panels = {where for where in empty if not where.startswith("rule ")}
    assert panels == {f"{name}: Firing alerts" for name in ("fleet", "job", "zoo")}, "all else has data here"


def test_one_job_s_dashboard_gets_data_with_its_variables(prometheus: Prometheus, view: View) -> None:
    chosen = dataclasses.replace(view, namespace=fleet_history.NAMESPACE, job=fleet_history.JOB)
    found = check.check_queries(prometheus, chosen, files=FILES)
    lacking = {finding.query.where for finding in found if finding.verdict == "no data"}
    assert lacking == set()
    empty = {finding.query.where for finding in found if finding.verdict == "rightly empty"}
    assert "job: Result" in empty  # it has not ended
    assert "job: Images per second" not in empty


def test_a_job_that_is_not_there_is_no_excuse(prometheus: Prometheus, view: View) -> None:
    chosen = dataclasses.replace(view, namespace="nowhere", job="none")
    found = check.check_queries(prometheus, chosen, files=FILES)
    assert "job: Images per second" in {
        finding.query.where for finding in found if finding.verdict == "no data"
    }


def test_only_the_alerts_fire_that_the_history_gives_reason_for(
    prometheus: Prometheus, view: View, findings: list[Finding]
) -> None:
    firing = {found.query.where for found in findings if found.query.kind == "rule" and found.series}
    assert firing == {f"rule Kubedet{name}" for name in ("RankStraggled", "ZooRowsFailed", "ZooPageFailed")}
    (rule,) = [query for query in check.read_queries(FILES) if query.where == "rule KubedetRankStraggled"]
    (slow,) = prometheus.query(rule.expr, view)
    assert (slow.labels["pod"], slow.labels["local_rank"]) == (f"{fleet_history.JOB}-worker-1", "7")
