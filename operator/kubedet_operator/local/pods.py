"""Runs pods as processes of this machine, and reports their state as a kubelet would."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from kubedet_operator.api import names
from kubedet_operator.cluster.clock import ClusterClock
from kubedet_operator.decision import reports
from kubedet_operator.decision.pods import Ending, PodFacts
from kubedet_operator.local.container import LOOPBACK, Command, Machine, translate
from kubedet_trainer import contract

_CLOCK = ClusterClock()

_LOG_TAIL_BYTES = 2048
"""What a kubelet takes from the log where a failed container has left no message."""


@dataclass(kw_only=True)
class _Pod:
    """One process and the pod that it stands for."""

    manifest: Mapping[str, Any]
    command: Command
    process: subprocess.Popen[bytes]
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    created: datetime
    ending: Ending | None = None
    deleting: bool = False
    kill_at: float | None = None

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def labels(self) -> Mapping[str, str]:
        labels: Mapping[str, str] = self.manifest["metadata"]["labels"]
        return labels


class LocalPods:
    """The pods of one job. As a context manager it leaves no process behind."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._pods: dict[str, _Pod] = {}

    def __enter__(self) -> LocalPods:
        return self

    def __exit__(self, *reason: object) -> None:
        for pod in self._pods.values():
            if pod.ending is None:
                _kill_group(pod.process)
                pod.process.wait()

    def apply(self, manifest: Mapping[str, Any]) -> None:
        """Start the pod; a Service needs nothing here, and a pod that exists stays as it is."""
        name = manifest["metadata"]["name"]
        if manifest["kind"] != "Pod" or name in self._pods:
            return
        command = translate(manifest, self._machine)
        self._pods[name] = _Pod(
            manifest=manifest, command=command, process=self._start(name, command), created=now()
        )

    def delete(self, name: str, uid: str) -> None:
        """Ask the pod to end, as a deletion does; it is gone from `observe` once it has."""
        pod = self._pods.get(name)
        if pod is not None and pod.uid == uid and not pod.deleting:
            pod.deleting = True
            self._terminate(pod)

    def stop(self) -> None:
        """Ask every worker to save its state and end. The rendezvous store stays until they have."""
        for pod in self._pods.values():
            if pod.labels[names.APP_COMPONENT] == names.WORKER:
                self._terminate(pod)

    def observe(self) -> list[PodFacts]:
        """What is known of every pod now."""
        for pod in list(self._pods.values()):
            self._look_after(pod)
            if pod.deleting and pod.ending is not None:
                del self._pods[pod.name]
        return [_facts(pod) for pod in self._pods.values()]

    def metrics_ports(self) -> dict[str, int]:
        """Worker -> the port that it answers on."""
        return {
            pod.name: pod.command.metrics_port
            for pod in self._pods.values()
            if pod.command.metrics_port is not None
        }

    def _start(self, name: str, command: Command) -> subprocess.Popen[bytes]:
        self._machine.work_directory(name).mkdir(parents=True, exist_ok=True)
        self._machine.termination_message(name).unlink(missing_ok=True)
        log = self._machine.log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            return subprocess.Popen(
                command.arguments,
                env=dict(command.environment),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                # A group of its own: Ctrl-C must reach the launchers once, from here, and in order.
                start_new_session=True,
            )

    def _look_after(self, pod: _Pod) -> None:
        code = pod.process.poll()
        if code is None:
            if pod.kill_at is not None and time.monotonic() > pod.kill_at:
                _kill_group(pod.process)
        elif pod.ending is None:
            _kill_group(pod.process)  # whatever outlives PID 1 of a container
            pod.ending = self._read_ending(pod, code)
            if pod.manifest["spec"]["restartPolicy"] == "Always" and not pod.deleting:
                pod.process = self._start(pod.name, pod.command)
                pod.ending = None

    def _read_ending(self, pod: _Pod, code: int) -> Ending:
        exit_code = code if code >= 0 else 128 - code
        message = _read_text(self._machine.termination_message(pod.name))
        if not message and exit_code:
            message = _read_text(self._machine.log(pod.name))[-_LOG_TAIL_BYTES:]
        return Ending(
            exit_code=exit_code,
            reason="Error" if exit_code else "Completed",
            message=reports.clean_text(message[: contract.TERMINATION_MESSAGE_BYTES]),
            time=now(),
        )

    def _terminate(self, pod: _Pod) -> None:
        if pod.process.poll() is None:
            pod.process.terminate()
            pod.kill_at = time.monotonic() + pod.manifest["spec"]["terminationGracePeriodSeconds"]


def _facts(pod: _Pod) -> PodFacts:
    ending = pod.ending
    index = pod.labels.get(names.REPLICA_INDEX)
    phase = "Running" if ending is None else "Failed" if ending.exit_code else "Succeeded"
    return PodFacts(
        name=pod.name,
        uid=pod.uid,
        job=pod.labels[names.APP_INSTANCE],
        job_uid=pod.labels.get(names.JOB_UID, ""),
        component=pod.labels[names.APP_COMPONENT],
        index=int(index) if index is not None else None,
        attempt=int(pod.labels.get(names.ATTEMPT, "0")),
        phase=phase,
        address=LOOPBACK,
        ready=ending is None,
        deleting=pod.deleting,
        created=pod.created,
        ending=ending,
    )


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def now() -> datetime:
    """The time of a local run: this machine's when the run began, which no setting of its clock changes."""
    return _CLOCK.now()
