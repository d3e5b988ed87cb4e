"""The leader is killed while jobs run: the standby goes on, and no pod notices."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NAMESPACE = "kubedet-failover"
JOBS = int(os.environ.get("KUBEDET_FAILOVER_JOBS", "20"))
"""An acceptance run takes 200."""


def test_the_standby_takes_over_from_a_killed_leader_and_restarts_no_pod(
    make_fleet: Callable[[str], Any],
    make_operator: Callable[..., Any],
    cluster: Any,
    wait: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    fleet = make_fleet(NAMESPACE)
    replicas = [make_operator(Path(cluster.kubeconfig), namespace=NAMESPACE) for _ in range(2)]
    for replica in replicas:
        replica.wait_until_ready()
    wait(lambda: sum(map(_leads, replicas)) == 1, "one leader", seconds=60)
    leader, standby = sorted(replicas, key=_leads, reverse=True)
    cluster.apply(*(fleet.build(f"job-{i}", annotations={}, worker={"replicas": 2}) for i in range(JOBS)))
    wait(lambda: set(fleet.phases().values()) == {"Running"}, "that all run", seconds=300)
    writes = 'kubedet_operator_api_requests_total{code="201",resource="pods",verb="create"}'
    assert writes not in standby.get("/metrics")
    assert "kubedet_job_info{" not in standby.get("/metrics")
    pods = {name: pod["metadata"]["uid"] for name, pod in fleet.items("pods").items()}

    leader.stop(signal.SIGKILL)
    killed_at = time.monotonic()
    wait(lambda: _leads(standby), "another leader", seconds=60)
    seconds = time.monotonic() - killed_at
    # The new leader acts, and has not touched what was well.
    cluster.kubectl("delete", "pod", "job-0-worker-1", "-n", NAMESPACE, "--wait=false")
    lost = pods.pop("job-0-worker-1")
    successors = {"job-0-worker-1", "job-0-worker-1-b"}  # the second where it comes before the first has gone
    wait(
        lambda: any(
            name in successors and pod["metadata"]["uid"] != lost for name, pod in fleet.items("pods").items()
        ),
        "the deleted pod's successor",
        seconds=60,
    )
    wait(lambda: set(fleet.phases().values()) == {"Running"}, "that all run again", seconds=120)
    now = {name: pod["metadata"]["uid"] for name, pod in fleet.items("pods").items()}
    restarted = sum(now.get(name) != uid for name, uid in pods.items())
    with capsys.disabled():
        print(
            "\n", json.dumps({"jobs": JOBS, "take_over_seconds": round(seconds, 1), "restarted": restarted})
        )
    assert restarted == 0
    restarts = [job["status"]["restarts"]["application"] for job in fleet.items("dj").values()]
    assert sum(restarts) == 0
    fleet.empty()


def _leads(replica: Any) -> bool:
    return bool(replica.metric("kubedet_operator_leader"))
