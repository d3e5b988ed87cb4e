"""The alerts: valid, tested both ways, each with its runbook."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from monitoring import build
from monitoring.alerts import ALERTS, RUNBOOKS, Alert
from monitoring.queries import exposed_metrics, find_names

RULES = build.ROOT / build.CHART_FILES / "rules.yaml"
TESTS = Path(__file__).with_name("alerts.yaml")
PAGES = build.ROOT / "docs" / "runbooks"
SCENARIOS = yaml.safe_load(TESTS.read_text())["tests"]
each_alert = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)


def test_the_rule_file_is_one(promtool: Callable[..., str]) -> None:
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", RULES)


def test_alerts_fire_where_they_must_and_not_where_they_need_not(
    promtool: Callable[..., str], tmp_path: Path
) -> None:
    for path in (RULES, TESTS):
        shutil.copy(path, tmp_path)
    assert "SUCCESS" in promtool("test", "rules", TESTS.name, folder=tmp_path)


@each_alert
def test_an_alert_is_tested_both_ways(alert: Alert) -> None:
    asked = [
        case["exp_alerts"]
        for scenario in SCENARIOS
        for case in scenario["alert_rule_test"]
        if case["alertname"] == alert.name
    ]
    expected = [
        fired["exp_labels"]
        for alerts in asked
        for fired in alerts
        if alert.labels.items() <= fired["exp_labels"].items()
    ]
    assert expected, "no test in which it fires"
    assert [] in asked, "no test in which it does not"


@each_alert
def test_an_alert_is_well_formed_and_has_its_page(alert: Alert) -> None:
    assert re.fullmatch(r"Kubedet([A-Z][a-z]+){2,4}", alert.name)
    page = (PAGES / f"{alert.name}.md").read_text()
    assert page.startswith(f"# {alert.name}\n")
    assert "**Impact.**" in page
    assert "**Fix.**" in page
    assert f"[{alert.name}]({alert.name}.md) | {alert.severity}" in (PAGES / "README.md").read_text()
    known = {name for metric in exposed_metrics() for name in metric.series()}
    assert find_names(alert.expr) <= known


def test_every_page_is_of_an_alert_and_links_lead_somewhere() -> None:
    pages = {path.stem: path.read_text() for path in PAGES.glob("*.md")}
    assert pages.keys() == {alert.name for alert in ALERTS} | {"README"}
    for text in pages.values():
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert (PAGES / target).is_file(), target


def test_addresses_of_pages_end_with_their_file() -> None:
    for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]:
        assert rule["annotations"]["runbook_url"] == f"{RUNBOOKS}/{rule['alert']}.md"
