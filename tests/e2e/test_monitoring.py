"""What a real Prometheus knows of the jobs of the tests before: every query of panels and rules."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cluster_jobs import NAMESPACE, is_complete, wait_for
from monitoring.prometheus import Prometheus, View

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parent.parent.parent
JOB = "elastic"
RIGHTLY_EMPTY = {
    "NVIDIA's DCGM exporter is not installed, or finds nothing of this",
    "no alert fires",
    "no alert of a zoo fires",
    "no job avoids a node",
    "no job belongs to a zoo",
    "no job has masks",
    "no job has a reason to tell",
    "no job of a zoo runs, or none has a reason to tell",
    "no job with a published row has ended",
    "no node has broken a worker within an hour",
    "no rank is a straggler",
    "no row of a zoo can be compared",
    "no row of a zoo has ended, or its page is written",
    "no zoo has rows",
    "there is no zoo, or none in this phase",
    "no job has failed this way",
    "no job sets an interval in seconds",
    "no job trains, or not for long enough for an estimate",
    "no rank was lost",
    "no reconciliation has failed",
    "no worker runs",
    "nothing is published of the recipe",
    "the workers have no GPUs",
    "the workers have no memory limit, or no control group",
}
"""What these jobs cannot show. All else they do."""


@pytest.fixture
def minutes(operator: Any, monitoring: Any) -> float:
    """For how long Prometheus has looked on."""
    if not is_complete(operator, JOB):
        pytest.skip(f"looks back on the job {JOB} of test_elastic.py, which is not complete here")
    prometheus, result = Prometheus(monitoring.url), f'kubedet_job_result{{name="{JOB}"}}'
    wait_for(lambda: prometheus.query(result, View(end=time.time(), seconds=60)), 60, "scrape of the result")
    return (time.time() - float(monitoring.since)) / 60


def test_every_query_of_panels_and_rules_gets_data(monitoring: Any, minutes: float) -> None:
    lines = _monitoring("check", monitoring.url, "--minutes", f"{minutes:.1f}").splitlines()
    print("\n" + "\n".join(lines))
    empty = [line for line in lines if not line.startswith("data ")]
    assert len(empty) < len(lines) / 2
    assert [line for line in empty if not any(reason in line for reason in RIGHTLY_EMPTY)] == []


def test_the_targets_are_found_and_up(monitoring: Any, minutes: float) -> None:
    view = View(end=time.time(), seconds=60 * minutes)
    prometheus = Prometheus(monitoring.url)
    found = {
        tuple(series.labels.get(key, "") for key in ("namespace", "name")): series.newest
        for series in prometheus.query("max by (namespace, name) (max_over_time(up[$__range]))", view)
    }
    assert found[NAMESPACE, ""] == 1, "the operator"
    assert found[NAMESPACE, JOB] == 1, "workers"
    fired = prometheus.query(
        'count by (alertname) (max_over_time(ALERTS{alertstate="firing"}[$__range]))', view
    )
    print("\nfired:", sorted(series.labels["alertname"] for series in fired))


def _monitoring(*arguments: str) -> str:
    """What `python -m monitoring` says."""
    path = os.pathsep.join([str(ROOT / "manifests"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "monitoring", *arguments]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
