"""Runs the containers of marked pods as processes, and has their fake nodes report how they ended.

Fake nodes run nothing, so a test would have to invent the end of a worker and then assert what it invented.
Here the trainer itself ends. Its exit code and termination message reach the operator as from a kubelet.
"""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kubedet_operator.local.container import Machine, translate

MARK = {"kubedet.test/runs": "true"}
"""Annotation of the pods whose containers run."""

_POLL_SECONDS = 0.5


class WorkerProcesses:
    """A kubelet for marked pods, as a context. It starts a container when the fake node reports Running."""

    def __init__(self, kubectl: Callable[..., str], *, folder: Path, environment: Mapping[str, str]) -> None:
        self._kubectl = kubectl
        self._folder = folder
        self._environment = environment
        self._running: dict[str, tuple[str, subprocess.Popen[bytes], Path]] = {}
        self._seen: set[str] = set()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.messages: dict[str, dict[str, Any]] = {}
        """The newest termination message of each pod, by the pod's name."""

    def __enter__(self) -> WorkerProcesses:
        self._thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._stopped.set()
        self._thread.join()
        for _, process, _ in self._running.values():
            process.kill()
            process.wait()

    def _serve(self) -> None:
        while not self._stopped.wait(_POLL_SECONDS):
            for pod in json.loads(self._kubectl("get", "pods", "-o", "json"))["items"]:
                if pod["status"].get("phase") == "Running" and pod["metadata"]["uid"] not in self._seen:
                    self._start(pod)
            for uid, (name, process, message) in list(self._running.items()):
                if process.poll() is not None:
                    del self._running[uid]
                    self._report(name, process.returncode, message.read_text())

    def _start(self, pod: Mapping[str, Any]) -> None:
        uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
        self._seen.add(uid)
        if not MARK.items() <= (pod["metadata"].get("annotations") or {}).items():
            return
        machine = Machine(
            output=self._folder / uid, secrets={}, inherited=self._environment, rendezvous_port=0
        )
        command = translate(pod, machine)
        machine.work_directory(name).mkdir(parents=True)
        machine.log(name).parent.mkdir(parents=True)
        with machine.log(name).open("wb") as log:
            process = subprocess.Popen(command.arguments, env=command.environment, stdout=log, stderr=log)
        self._running[uid] = (name, process, machine.termination_message(name))

    def _report(self, name: str, exit_code: int, message: str) -> None:
        self.messages[name] = json.loads(message)
        how = "fail" if exit_code else "complete"
        endings = {f"{how}-after": "0s", "exit-code": exit_code, "message": message}
        annotations = (f"fake.kubedet/{key}={value}" for key, value in endings.items())
        self._kubectl("annotate", "pod", name, *annotations)
