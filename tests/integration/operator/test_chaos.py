"""Jobs live and end through an API server that errs, forgets its watches and is away for a while."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos_proxy import Chaos, ChaosProxy
from kubedet_trainer import contract

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

NAMESPACE = "kubedet-chaos"
JOBS = int(os.environ.get("KUBEDET_CHAOS_JOBS", "30"))
SECONDS = float(os.environ.get("KUBEDET_CHAOS_SECONDS", "20"))
"""Over which the jobs are created. An acceptance run takes 1000 jobs over 600 s, with silent watches."""

RESULTS = {"fake.kubedet/message": contract.dump_termination_message(results=contract.Results(boxAP=61.5))}
EVERY_FAILING = 10
"""Each of so many jobs fails once with every attempt, until its budget is spent."""


@pytest.fixture
def proxy(cluster: Any, tmp_path: Path) -> Iterator[ChaosProxy]:
    is_long = SECONDS > 120
    chaos = Chaos(
        silent_watch=0.0025 if is_long else 0.0,  # it takes 70 s until one is noticed
        outage_every_seconds=120 if is_long else 15,
        outage_seconds=20 if is_long else 8,
    )
    path = tmp_path / "admin.json"
    path.write_text(cluster.kubectl("config", "view", "--raw", "--flatten", "-o", "json"))
    proxy = ChaosProxy(path, chaos=chaos, folder=tmp_path)
    yield proxy
    proxy.stop()


def test_every_job_ends_as_it_should_and_leaves_nothing(
    proxy: ChaosProxy,
    make_fleet: Callable[[str], Any],
    make_operator: Callable[..., Any],
    wait: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    fleet = make_fleet(NAMESPACE)
    operator = make_operator(proxy.kubeconfig, namespace=NAMESPACE)
    expected: dict[str, str] = {}
    memory: list[tuple[float, float]] = []
    for index in range(JOBS):
        name = f"job-{index}"
        ending, expected[name] = {"fake.kubedet/complete-after": "10s"} | RESULTS, "Succeeded"
        if index % EVERY_FAILING == 0:
            ending = {"fake.kubedet/fail-after": "3s", "fake.kubedet/exit-code": "137"}
            expected[name] = "Failed"
        job = fleet.build(name, annotations=ending, worker={"replicas": 1 + index % 2}, backoffLimit=1)
        fleet.cluster.apply(job)
        if index % 20 == 0:
            memory.append((time.monotonic(), operator.metric("process_resident_memory_bytes")))
        time.sleep(SECONDS / JOBS)
    started = time.monotonic()
    wait(
        lambda: fleet.phases() == expected or operator.process.poll() is not None,
        "the end of all jobs",
        seconds=300,
    )
    assert operator.process.poll() is None, operator.log.read_text()[-2000:]
    settled = time.monotonic() - started
    for name, job in fleet.items("dj").items():
        restarts = job["status"]["restarts"]["application"]
        assert restarts == (2 if expected[name] == "Failed" else 0), name
    running = [name for name, pod in fleet.items("pods").items() if pod["status"]["phase"] == "Running"]
    assert not running, "pods of jobs that have ended"
    assert proxy.done["409"]
    assert proxy.done["outage"]
    with capsys.disabled():
        figures = {"jobs": JOBS, "settled_seconds_after_the_last": round(settled, 1), **proxy.done}
        resident = [round(size / 2**20, 1) for _, size in memory if size]
        print("\n", json.dumps({**figures, "memory_mib": resident}))
    fleet.empty()
