"""How the tests of a real cluster look at jobs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMESPACE = "detectors"


def status_of(cluster: Any, name: str) -> dict[str, Any]:
    status: dict[str, Any] = cluster.get("dj", name).get("status", {})
    return status


def condition_of(cluster: Any, name: str, kind: str, status: str, word: str) -> dict[str, Any] | None:
    for condition in status_of(cluster, name).get("conditions", []):
        if condition["type"] == kind and condition["status"] == status and word in condition["message"]:
            return dict(condition)
    return None


def is_complete(cluster: Any, name: str) -> bool:
    """Whether a job, which may be gone, has ended well."""
    status = 'jsonpath={.status.conditions[?(@.type=="Complete")].status}'
    found: str = cluster.kubectl("get", "dj", name, "-n", NAMESPACE, "--ignore-not-found", "-o", status)
    return found == "True"


def pod_uids(cluster: Any, selector: str) -> dict[str, str]:
    """The selected pods and their identities, by name."""
    pods = cluster.get("pods", "-l", selector)["items"]
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods}


def wait_for(look: Callable[[], Any], seconds: float, what: str) -> Any:
    """What `look` returns once that is true."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, f"no {what} within {seconds} s"
        time.sleep(0.5)
    return found


def worker_process(job: str, *, replica: int) -> int:
    """The process id, as this machine sees it, of PID 1 of one worker's container."""
    wanted = {f"KUBEDET_JOB_NAME={job}", f"KUBEDET_REPLICA_INDEX={replica}"}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = set((process / "environ").read_text().split("\0"))
            command = (process / "cmdline").read_text()
        except (OSError, UnicodeDecodeError):
            continue
        if wanted <= environment and "kubedet_trainer.worker.launch" in command:
            return int(process.name)
    raise AssertionError(f"no worker {replica} of {job} runs")
