"""Jobs live and end through an API server that errs, forgets its watches and is away for a while."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos_proxy import Chaos, ChaosProxy
from kubedet_trainer import contract
from onlooker import Onlooker

NAMESPACE = "kubedet-chaos"
JOBS = int(os.environ.get("KUBEDET_CHAOS_JOBS", "30"))
SECONDS = float(os.environ.get("KUBEDET_CHAOS_SECONDS", "20"))
"""Over which the jobs are created. An acceptance run takes 1000 jobs over 1800 s."""

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500 + SECONDS)]

RESULTS = {"fake.kubedet/message": contract.dump_termination_message(results=contract.Results(boxAP=61.5))}
LONGEST_LATE_SECONDS = 30
"""No status may be behind its pods for longer, outages apart."""

EVERY_FAILING = 10
"""Each of so many jobs fails once with every attempt, until its budget is spent."""


@pytest.fixture
def proxy(cluster: Any, tmp_path: Path) -> Iterator[ChaosProxy]:
    is_long = SECONDS > 120
    chaos = Chaos(outage_every_seconds=120 if is_long else 15, outage_seconds=20 if is_long else 8)
    path = tmp_path / "admin.json"
    path.write_text(cluster.kubectl("config", "view", "--raw", "--flatten", "-o", "json"))
    proxy = ChaosProxy(path, chaos=chaos, folder=tmp_path)
    yield proxy
    proxy.stop()


def test_every_job_ends_as_it_should_and_leaves_nothing(
    proxy: ChaosProxy,
    make_fleet: Callable[[str], Any],
    make_operator: Callable[..., Any],
    cluster: Any,
    wait: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    fleet = make_fleet(NAMESPACE)
    kubectl = [cluster.kubectl_path, "--kubeconfig", cluster.kubeconfig]
    onlooker = Onlooker(kubectl, NAMESPACE, excused=proxy.seconds_away)
    operator = make_operator(proxy.kubeconfig, namespace=NAMESPACE)
    expected: dict[str, tuple[str, int]] = {}
    memory: list[tuple[float, float]] = []
    began = time.monotonic()
    for index in range(JOBS):
        name = f"job-{index}"
        ending, expected[name] = {"fake.kubedet/complete-after": "10s"} | RESULTS, ("Succeeded", 0)
        if index % EVERY_FAILING == 0:
            ending = {"fake.kubedet/fail-after": "3s", "fake.kubedet/exit-code": "137"}
            expected[name] = ("Failed", 2)
        worker = {"replicas": 1 + index % 2}
        rules = {"backoffLimit": 1, "ttlSecondsAfterFinished": 30}
        fleet.cluster.apply(fleet.build(name, annotations=ending, worker=worker, **rules))
        if index % 20 == 0:
            memory.append((time.monotonic(), operator.metric("process_resident_memory_bytes")))
        time.sleep(max(0.0, began + (index + 1) * SECONDS / JOBS - time.monotonic()))
    started = time.monotonic()
    wait(
        lambda: onlooker.endings.keys() == expected.keys() or operator.process.poll() is not None,
        "the end of all jobs",
        seconds=300,
    )
    assert onlooker.endings == expected
    assert operator.process.poll() is None, operator.log.read_text()[-2000:]
    settled = time.monotonic() - started
    wait(lambda: not fleet.items("dj,pods,services"), "nothing left", seconds=180)
    seconds, latest = onlooker.worst()
    onlooker.stop()
    with capsys.disabled():
        figures = {
            "jobs": JOBS,
            "settled_seconds_after_the_last": round(settled, 1),
            "latest_status_seconds": round(seconds, 1),
            "memory_mib_per_minute": round(growth(memory), 2),
            "memory_mib": [round(size / 2**20, 1) for _, size in memory if size],
        }
        print("\n", json.dumps(figures | proxy.done))
    assert seconds < LONGEST_LATE_SECONDS, latest
    assert proxy.done["409"]
    assert proxy.done["outage"]


def growth(memory: list[tuple[float, float]]) -> float:
    """MiB a minute over the second half of a run, when everything has been allocated once; least squares."""
    half = [(at, size / 2**20) for at, size in memory if size][len(memory) // 2 :]
    if len(half) < 2:
        return 0.0
    times, sizes = zip(*half, strict=True)
    return 60 * statistics.linear_regression(times, sizes).slope
