"""The operator on a machine whose clock is an hour wrong, or is set by an hour while it runs."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import builders
from kubedet_trainer.contract.times import format_now, parse_time
from throwaway import await_definition

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

ROOT = Path(__file__).resolve().parent.parent.parent.parent
NO_NODE = {"spec": {"nodeSelector": {"kubedet.dev/test": "no-such-node"}}}
SHIFTED = """
import runpy, time
from datetime import datetime as real

def ahead():
    return float(open({file!r}).read())

told = time.time

class Shifted(real):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)

time.time = lambda: told() + ahead()
import datetime
datetime.datetime = Shifted
runpy.run_module("kubedet_operator", run_name="__main__", alter_sys=True)
"""
"""Runs the operator with a wall clock that is ahead by what a file says. Steady time is the machine's."""


@pytest.mark.parametrize("ahead", [-3600, 3600])
def test_an_hour_ends_no_job_and_holds_none_up(
    cluster: Any, make_operator: Callable[..., Any], wait: Callable[..., Any], tmp_path: Path, ahead: int
) -> None:
    namespace = f"kubedet-clocks{ahead}"
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    cluster.kubectl("apply", "--server-side", "-f", str(ROOT / "manifests/crds"))
    await_definition(cluster.kubectl)
    clock = tmp_path / "ahead"
    clock.write_text(str(ahead))
    operator = make_operator(
        Path(cluster.kubeconfig), namespace=namespace, program=("-c", SHIFTED.format(file=str(clock)))
    )
    operator.wait_until_ready()
    worker = {"gpus": 0, "template": NO_NODE}
    limits = {"activeDeadlineSeconds": 1800, "preRunningDeadlineSeconds": 1800}
    names = {"blocked": "blocked-worker-0", "crashing": "crashing-worker-0"}
    for name in names:
        cluster.apply(builders.make_manifest(name=name, namespace=namespace, worker=worker, **limits))

    def look(kind: str, name: str) -> dict[str, Any]:
        text = cluster.kubectl("get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found")
        found: dict[str, Any] = json.loads(text or "{}")
        return found

    def patch(pod: str, phase: str, state: dict[str, Any]) -> None:
        container = {"name": "trainer", "ready": phase == "Running", "state": state, "restartCount": 0}
        container |= {"image": "kubedet-trainer", "imageID": ""}
        status = json.dumps({"status": {"phase": phase, "containerStatuses": [container]}})
        cluster.kubectl("patch", "pod", pod, "-n", namespace, "--subresource=status", "-p", status)

    def holds(job: str, kind: str, status: str) -> bool:
        found = look("dj", job).get("status", {}).get("conditions", [])
        return any((item["type"], item["status"]) == (kind, status) for item in found)

    for pod in names.values():
        wait(lambda pod=pod: look("pod", pod), f"the pod {pod}")
    patch(names["blocked"], "Pending", {"waiting": {"reason": "ImagePullBackOff", "message": "no image"}})
    wait(lambda: holds("blocked", "Degraded", "True"), "word of the missing image")
    assert not holds("blocked", "Failed", "True")  # as it would be after ten minutes

    clock.write_text(str(-ahead))  # somebody sets the clock, by two hours
    patch(names["crashing"], "Running", {"running": {"startedAt": format_now()}})
    wait(lambda: holds("crashing", "Running", "True"), "the running job")
    for number in (1, 2):
        uid = look("pod", names["crashing"])["metadata"]["uid"]
        ended = {"exitCode": 139, "reason": "Error", "message": "", "finishedAt": format_now()}
        patch(names["crashing"], "Failed", {"terminated": ended})
        wait(
            lambda uid=uid: look("pod", names["crashing"]).get("metadata", {}).get("uid", uid) != uid,
            f"restart {number}",
            seconds=40,  # the second one after ten seconds
        )
        patch(names["crashing"], "Running", {"running": {"startedAt": format_now()}})
    for name in names:
        job = look("dj", name)
        assert not holds(name, "Failed", "True")
        created = parse_time(job["metadata"]["creationTimestamp"])
        assert abs((parse_time(job["status"]["activeSince"]) - created).total_seconds()) < 30
    assert operator.stop(signal.SIGTERM) == 0
    told = [line["message"] for line in operator.lines() if line["severity"] == "warn"]
    assert any("API server's clock" in message for message in told)
    cluster.kubectl("delete", "namespace", namespace)
