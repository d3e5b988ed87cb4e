"""A small kubelet: runs the containers of pods as processes, each pod in namespaces of its own.

Real nodes and images take minutes. This kubelet does with a pod what the operator and the trainer can tell:
an address, a PID 1, an empty work directory, SIGTERM and SIGKILL, restarts in place, exit codes and
termination messages.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from kube import Kube, Refused
from kubedet_operator.api import names
from kubedet_operator.cluster.client import CORE
from kubedet_operator.local.container import Machine, translate
from kubedet_trainer.contract import RENDEZVOUS_PORT, TERMINATION_MESSAGE_BYTES, Environment
from kubedet_trainer.contract.times import format_now
from pod_network import Host, Network

_POLL_SECONDS = 0.1
_IN_A_POD = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
_KILLED = b"unshare: sigprocmask unblock failed: Invalid argument\n"
"""The last words of `unshare` where its child was killed: it would end in the same way, but cannot."""

_AWAY = (aiohttp.ClientError, OSError, TimeoutError, Refused)
"""What requests raise while the API server is away."""


@dataclass
class Container:
    """The one container of a pod, and its processes."""

    pod: str
    host: Host
    folder: Path
    work: Path
    log: Path
    message: Path
    process: subprocess.Popen[bytes]
    restarts: int = 0
    kill_at: float | None = None
    reported: tuple[str, int] | None = None
    """What the API server knows of it: a phase, and the number of restarts."""
    started_at: str = field(default_factory=format_now)

    def pids(self) -> list[int]:
        """All its processes, as this process sees them; PID 1 comes first."""
        return list(_descendants(self.process.pid))

    def is_running(self) -> bool:
        """Whether PID 1 runs."""
        return self.process.poll() is None

    def exit_code(self) -> int | None:
        """That of PID 1 as a container runtime has it, 128 and more after a signal; None while it runs."""
        code = self.process.poll()
        if code == 1 and self.log.read_bytes().endswith(_KILLED):
            return 128 + signal.SIGKILL
        return code if code is None or code >= 0 else 128 - code

    def send(self, number: signal.Signals, *pids: int) -> None:
        """Send a signal to `pids`."""
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """End all processes at once, as a power cut does."""
        self.process.kill()
        self.process.wait()


class Kubelet:
    """Runs the pods of one namespace that the node `node` has."""

    def __init__(self, kube: Kube, network: Network, *, namespace: str, node: str, folder: Path) -> None:
        self._kube = kube
        self._network = network
        self._pods = f"/{CORE}/namespaces/{namespace}/pods"
        self._query = f"?fieldSelector=spec.nodeName={node}"
        self.folder = folder
        """Holds a folder for each pod."""
        self.secrets: dict[str, dict[str, str]] = {}
        self.containers: dict[str, Container] = {}
        """By the uid of the pod; as long as the API server knows the pod."""

    async def run(self) -> None:
        """Look at the pods for ever, whatever becomes of the API server."""
        while True:
            with suppress(*_AWAY):
                await self._look()
            await asyncio.sleep(_POLL_SECONDS)

    def close(self) -> None:
        """End all processes."""
        for container in self.containers.values():
            container.kill()

    async def _look(self) -> None:
        found = (await self._kube.ask("GET", self._pods + self._query))["items"]
        for uid in self.containers.keys() - {pod["metadata"]["uid"] for pod in found}:
            self.containers.pop(uid).kill()  # somebody has forced it away
        for pod in found:
            with suppress(Refused):  # it changed meanwhile
                await self._care(pod)

    async def _care(self, pod: Mapping[str, Any]) -> None:
        metadata = pod["metadata"]
        container = self.containers.get(metadata["uid"])
        leaving = "deletionTimestamp" in metadata
        if container is None and not leaving:
            container = self.containers[metadata["uid"]] = self._start(pod)
        if container is not None:
            if leaving:
                self._stop(container, metadata["deletionGracePeriodSeconds"])
            elif not container.is_running() and pod["spec"]["restartPolicy"] == "Always":
                container.process = self._run(pod, container.host, container.folder)
                container.restarts += 1
            await self._report(container)
        if leaving and (container is None or not container.is_running()):
            options = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
            await self._kube.ask("DELETE", f"{self._pods}/{metadata['name']}", options, missing_ok=True)

    def _start(self, pod: Mapping[str, Any]) -> Container:
        name, folder = pod["metadata"]["name"], self.folder / pod["metadata"]["uid"]
        host, machine = self._network.host(name), self._machine(folder)
        machine.work_directory(name).mkdir(parents=True)
        machine.log(name).parent.mkdir(parents=True)
        return Container(
            pod=name,
            host=host,
            folder=folder,
            work=machine.work_directory(name),
            log=machine.log(name),
            message=machine.termination_message(name),
            process=self._run(pod, host, folder),
        )

    def _machine(self, folder: Path) -> Machine:
        return Machine(
            output=folder, secrets=self.secrets, inherited=os.environ, rendezvous_port=RENDEZVOUS_PORT
        )

    def _run(self, pod: Mapping[str, Any], host: Host, folder: Path) -> subprocess.Popen[bytes]:
        """Start the container as it would be in a pod: it has an address, and all ports of that."""
        machine = self._machine(folder)
        command = translate(pod, machine)
        declared = {item["name"]: item.get("value") for item in pod["spec"]["containers"][0]["env"]}
        environment = {**command.environment, Environment.LOCAL_ADDRESS: host.address}
        if endpoint := declared.get(Environment.RENDEZVOUS_ENDPOINT):
            there = self._network.host(endpoint.partition(".")[0]).address
            environment[Environment.RENDEZVOUS_ENDPOINT] = f"{there}:{RENDEZVOUS_PORT}"
        if port := declared.get(Environment.METRICS_PORT):
            environment[Environment.METRICS_PORT] = port
        with machine.log(pod["metadata"]["name"]).open("ab") as log:
            return subprocess.Popen(
                host.command(*_IN_A_POD, *command.arguments), env=environment, stdout=log, stderr=log
            )

    def _stop(self, container: Container, seconds: float) -> None:
        if container.kill_at is None:
            container.kill_at = time.monotonic() + seconds
            container.send(signal.SIGTERM, *container.pids()[:1])
        elif time.monotonic() > container.kill_at:
            container.kill()

    async def _report(self, container: Container) -> None:
        code = container.exit_code()
        phase = "Running" if code is None else "Failed" if code else "Succeeded"
        if container.reported == (phase, container.restarts):
            return
        state: dict[str, Any] = {"running": {"startedAt": container.started_at}}
        if code is not None:
            said = container.message.read_text() if container.message.exists() else ""
            state = {
                "terminated": {
                    "exitCode": code,
                    "reason": "Error" if code else "Completed",
                    "message": said[:TERMINATION_MESSAGE_BYTES],
                    "startedAt": container.started_at,
                    "finishedAt": format_now(),
                }
            }
        status = {
            "name": names.CONTAINER,
            "ready": code is None,
            "restartCount": container.restarts,
            "state": state,
            "image": "",
            "imageID": "",
        }
        address = container.host.address
        answer = {
            "phase": phase,
            "podIP": address,
            "podIPs": [{"ip": address}],
            "containerStatuses": [status],
        }
        await self._kube.ask("PATCH", f"{self._pods}/{container.pod}/status", {"status": answer})
        container.reported = (phase, container.restarts)


def _descendants(pid: int) -> Iterator[int]:
    """The processes below `pid`, nearest first."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return
    for child in map(int, children):
        yield child
        yield from _descendants(child)
