"""How the operator bears thousands of jobs, beside the API server's ceiling in the same run; prints JSON.

Each job has a Service, two workers and their rendezvous pod; with `--workers 1` it is one pod alone. The
scheduler binds them to fake nodes. Goals: at least 95 % of the ceiling, 0.1 / 0.3 s from job to pods
(p50 / p99) at 10 jobs/s, 110 MiB at 1000 jobs, 7 ms of CPU a job, no write when idle. The cluster is a
throw-away one of KUBECONFIG, with manifests/crds and 200 fake nodes; where `shared/cluster` lies beside the
project it is made and taken down here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bare_client import CORE, JOBS, BareClient, Observer
from operator_process import WRITES, OperatorProcess

ROOT = Path(__file__).resolve().parent.parent
KIT = ROOT.parent / "shared" / "cluster"
CLUSTER = "kubedet-benchmark"
NODES = 200
NAMESPACE = "kubedet-benchmark"
PARALLEL = 16
UID = "00000000-0000-0000-0000-000000000000"
"""Stands in a prepared manifest for the uid of its job."""


@dataclass(frozen=True)
class Load:
    """The jobs that the operator is given."""

    workers: int

    @property
    def pods(self) -> int:
        """Pods of one job: several workers have a rendezvous pod, too."""
        return self.workers + (self.workers > 1)

    def job(self, name: str) -> dict[str, Any]:
        """A job, as a person would apply it."""
        return {
            "apiVersion": "kubedet.dev/v1alpha1",
            "kind": "DetectionJob",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {
                "recipe": "smoke_faster_rcnn",
                "dataset": {"storageUri": "synthetic://shapes"},
                "worker": {"replicas": self.workers, "gpus": 0},
            },
        }


async def until(look: Callable[[], Any], what: str, *, seconds: float = 600) -> None:
    """Return once `look` is true; an endpoint that does not answer is not."""
    end = time.monotonic() + seconds
    while True:
        try:
            found = look()
            if await found if isinstance(found, Awaitable) else found:
                return
        except OSError:
            pass
        if time.monotonic() > end:
            raise SystemExit(f"no {what} within {seconds} s")
        await asyncio.sleep(0.05)


async def until_quiet(operator: OperatorProcess) -> None:
    """Return once the operator has told everything that there is to tell: Events come at leisure."""
    before = -1
    while (now := sum(count for what, count in operator.writes().items() if "leases" not in what)) != before:
        before = now
        await asyncio.sleep(5)


async def create_jobs(
    client: BareClient, load: Load, names: list[str], *, per_second: float = 0.0
) -> dict[str, float]:
    """Create jobs, as fast as the API server takes them or at a rate; returns when each was asked for."""
    asked: dict[str, float] = {}
    free = asyncio.Semaphore(PARALLEL)

    async def create(name: str) -> None:
        async with free:
            asked[name] = time.monotonic()
            await client.request("POST", f"{JOBS}/namespaces/{NAMESPACE}/detectionjobs", load.job(name))

    tasks = []
    for name in names:
        tasks.append(asyncio.create_task(create(name)))
        if per_second:
            await asyncio.sleep(1 / per_second)
    await asyncio.gather(*tasks)
    return asked


async def clean(client: BareClient) -> None:
    """Delete everything and wait until it is gone."""
    jobs = f"{JOBS}/namespaces/{NAMESPACE}/detectionjobs"
    core = f"{CORE}/namespaces/{NAMESPACE}"
    for path in (jobs, f"{core}/services", f"{core}/pods"):
        while await client.count(path):
            await client.request("DELETE", f"{path}?limit=250")  # thousands take longer than a request may
            await asyncio.sleep(1)


async def measure_burst(
    client: BareClient, operator: OperatorProcess, load: Load, number: int
) -> dict[str, Any]:
    """`number` jobs at once: until all have their pods and a status, and until all run."""
    observer = Observer(client, NAMESPACE, load.pods)
    await observer.start()
    names = [f"burst-{index}" for index in range(number)]
    memory, cpu, before = operator.resident_mib(), operator.cpu_seconds(), operator.writes()
    started = time.monotonic()
    await create_jobs(client, load, names)
    await until(
        lambda: len(observer.complete_at) == number and len(observer.described) == number, "pods of all jobs"
    )
    seconds = time.monotonic() - started
    written = operator.writes() - before
    await until(lambda: len(observer.running) == number, "that all jobs run")
    await asyncio.sleep(2)
    await observer.stop()
    in_all = operator.writes() - before
    return {
        "jobs_per_second": round(number / seconds, 1),
        "cpu_ms_per_job": round((operator.cpu_seconds() - cpu) / number * 1000, 2),
        "memory_mib_before": round(memory, 1),
        "memory_mib_after": round(operator.resident_mib(), 1),
        "writes_per_job": {what: round(count / number, 2) for what, count in in_all.items()},
        "status_writes_until_created": sum(written[f"{verb} detectionjobs"] for verb in WRITES),
        "events_until_created": written["create events"],
    }


async def measure_ceiling(
    client: BareClient, load: Load, number: int, row: Mapping[str, Any], status: Any
) -> float:
    """Jobs per second of a bare client that makes the same writes, as cheaply as the API server has them."""
    status_writes, events = row["status_writes_until_created"], row["events_until_created"]
    manifests = _children(load, "ceiling-NUMBER")
    plurals = [f"{manifest['kind'].lower()}s" for manifest in manifests]
    children = [json.dumps(manifest) for manifest in manifests]
    free = asyncio.Semaphore(PARALLEL)
    jobs = f"{JOBS}/namespaces/{NAMESPACE}/detectionjobs"

    async def run(index: int) -> None:
        name = f"ceiling-{index}"
        async with free:
            created = await client.request("POST", jobs, load.job(name))
            texts = [
                text.replace("ceiling-NUMBER", name).replace(UID, created["metadata"]["uid"])
                for text in children
            ]
            await asyncio.gather(
                *(
                    client.request("POST", f"{CORE}/namespaces/{NAMESPACE}/{plural}", text)
                    for plural, text in zip(plurals, texts, strict=True)
                )
            )
            for _ in range(status_writes // number + (index < status_writes % number)):
                created["status"] = status | {"attempt": created.get("status", {}).get("attempt", 0) + 1}
                created = await client.request("PUT", f"{jobs}/{name}/status", created)
            if index < events:
                await client.request("POST", f"{CORE}/namespaces/{NAMESPACE}/events", _event(name))

    started = time.monotonic()
    await asyncio.gather(*(run(index) for index in range(number)))
    return number / (time.monotonic() - started)


async def measure_latency(
    client: BareClient, load: Load, *, per_second: float, seconds: float
) -> dict[str, Any]:
    """Seconds from the request that creates a job until its last pod is seen, at a steady rate."""
    observer = Observer(client, NAMESPACE, load.pods)
    await observer.start()
    names = [f"steady-{index}" for index in range(int(per_second * seconds))]
    asked = await create_jobs(client, load, names, per_second=per_second)
    await until(lambda: len(observer.complete_at) == len(names), "pods of all jobs")
    await observer.stop()
    taken = sorted(observer.complete_at[name] - asked[name] for name in names)
    return {
        "jobs_per_second": per_second,
        "p50_seconds": round(statistics.median(taken), 3),
        "p99_seconds": round(taken[int(len(taken) * 0.99)], 3),
    }


async def measure_idle(operator: OperatorProcess, seconds: float) -> dict[str, Any]:
    """Writes and CPU of an operator whose jobs all run."""
    cpu, before, started = operator.cpu_seconds(), operator.writes(), time.monotonic()
    await asyncio.sleep(seconds)
    minutes = (time.monotonic() - started) / 60
    written = operator.writes() - before
    lease = sum(count for what, count in written.items() if what.endswith(" leases"))
    return {
        "writes_per_minute": round((sum(written.values()) - lease) / minutes, 1),
        "lease_renewals_per_minute": round(lease / minutes, 1),
        "cpu_share_of_a_core": round((operator.cpu_seconds() - cpu) / seconds, 4),
    }


async def measure_restart(operator: OperatorProcess, kubeconfig: str, number: int) -> dict[str, Any]:
    """Seconds from the start of a new process until it has looked at every job, and its memory then."""
    operator.stop()
    again = OperatorProcess(kubeconfig, namespace=NAMESPACE)
    try:
        await until(lambda: again.reconciliations() >= number, "reconciliation of all jobs")
        seconds = time.monotonic() - again.started
        await asyncio.sleep(3)
        return {
            "recovery_seconds": round(seconds, 2),
            "cpu_seconds": round(again.cpu_seconds(), 2),
            "memory_mib": round(again.resident_mib(), 1),
            "memory_mib_peak": round(again.resident_mib("VmHWM"), 1),
            "writes": sum(again.writes().values()),
        }
    finally:
        again.stop()


async def measure(kubeconfig: str, options: argparse.Namespace) -> dict[str, Any]:
    client, load = BareClient(kubeconfig), Load(options.workers)
    found: dict[str, Any] = {"benchmark": "operator_load", "cores": os.cpu_count(), "workers": load.workers}
    try:
        await client.request("POST", f"{CORE}/namespaces", {"metadata": {"name": NAMESPACE}}, allowed=409)
        await clean(client)
        operator = OperatorProcess(kubeconfig, namespace=NAMESPACE)
        await until(operator.is_ready, "readiness of the operator")
        latency = await measure_latency(client, load, per_second=options.rate, seconds=options.seconds)
        found |= _tell("latency", latency)
        operator.stop()
        await clean(client)
        for number in options.jobs:
            operator = OperatorProcess(kubeconfig, namespace=NAMESPACE)
            try:
                await until(operator.is_ready, "readiness of the operator")
                row = await measure_burst(client, operator, load, number)
                await until_quiet(operator)
                job = await client.request("GET", f"{JOBS}/namespaces/{NAMESPACE}/detectionjobs/burst-0")
                row["idle"] = await measure_idle(operator, options.idle)
                row["restart"] = await measure_restart(operator, kubeconfig, number)
            finally:
                operator.stop()
            await clean(client)
            observer = Observer(
                client, NAMESPACE, load.pods
            )  # it costs the API server the same here as there
            await observer.start()
            ceiling = await measure_ceiling(client, load, number, row, job["status"])
            await observer.stop()
            row["ceiling_jobs_per_second"] = round(ceiling, 1)
            row["share_of_ceiling"] = round(row["jobs_per_second"] / ceiling, 3)
            found |= _tell(f"jobs_{number}", row)
            await clean(client)
    finally:
        await client.close()
    return found


def _tell(name: str, figures: dict[str, Any]) -> dict[str, Any]:
    """Figures by their name, which are shown as soon as they are known: thousands of jobs take a while."""
    print(json.dumps({name: figures}), file=sys.stderr)
    return {name: figures}


def _event(name: str) -> dict[str, Any]:
    return {
        "metadata": {"generateName": f"{name}.", "namespace": NAMESPACE},
        "involvedObject": {"kind": "DetectionJob", "name": name, "namespace": NAMESPACE},
        "type": "Normal",
        "reason": "PodsCreated",
        "message": "workers run 0 of 2",
    }


def _children(load: Load, name: str) -> list[dict[str, Any]]:
    """What the operator creates for a job, as JSON has it."""
    # Here, since the measured process must not carry what this one imports.
    from kubedet_operator.api import types
    from kubedet_operator.children.children import build_children
    from kubedet_operator.settings import OperatorSettings

    manifest = load.job("placeholder")
    manifest["metadata"] |= {"uid": UID, "generation": 1}
    built = build_children(types.parse_job(manifest), attempt=0, settings=OperatorSettings())
    children: list[dict[str, Any]] = json.loads(json.dumps(built).replace("placeholder", name))
    return children


def _prepare() -> str | None:
    """The kubeconfig of a cluster with fake nodes, made here if none is given."""
    if given := os.environ.get("KUBECONFIG"):
        return given
    if not KIT.is_dir():
        return None
    output = subprocess.run([KIT / "up", "--name", CLUSTER], check=True, capture_output=True, text=True)
    subprocess.run([KIT / "fake-nodes", str(NODES), "--name", CLUSTER], check=True, capture_output=True)
    found = re.search(r"KUBECONFIG=(\S+)", output.stdout)
    programs = subprocess.run([KIT / "unpack"], check=True, capture_output=True, text=True)
    kubectl = Path(programs.stdout.strip().splitlines()[-1]) / "kubectl"
    assert found is not None
    crds = ["-f", str(ROOT / "manifests/crds")]
    # Before the server has written any condition, `kubectl wait` for one of them is an error.
    accepted = ["wait", "--for=jsonpath={.status.acceptedNames.kind}", *crds]
    established = ["wait", "--for=condition=Established", *crds]
    for command in (["apply", "--server-side", *crds], accepted, established):
        subprocess.run([kubectl, "--kubeconfig", found.group(1), *command], check=True, capture_output=True)
    return found.group(1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, nargs="+", default=[100, 1000, 3000])
    parser.add_argument("--workers", type=int, default=2, help="workers of each job")
    parser.add_argument("--rate", type=float, default=10, help="jobs offered a second for the latency")
    parser.add_argument("--seconds", type=float, default=30, help="for how long they are offered")
    parser.add_argument("--idle", type=float, default=60, help="seconds over which idleness is measured")
    options = parser.parse_args()
    is_ours = not os.environ.get("KUBECONFIG")
    kubeconfig = _prepare()
    if kubeconfig is None:
        print(json.dumps({"benchmark": "operator_load", "skipped": "KUBECONFIG names no cluster"}))
        return 0
    try:
        print(json.dumps(asyncio.run(measure(kubeconfig, options)), indent=2))
    finally:
        if is_ours:
            subprocess.run([KIT / "down", "--name", CLUSTER], check=True, capture_output=True)
            shutil.rmtree(Path(kubeconfig).parent, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
