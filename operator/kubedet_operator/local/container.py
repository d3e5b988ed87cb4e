"""What a container's manifest comes to on this machine: a command and its whole environment."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubedet_operator.api import names
from kubedet_operator.children.environment import TERMINATION_MESSAGE_PATH
from kubedet_operator.children.storage import WORK_DIRECTORY
from kubedet_trainer.contract import Environment

LOOPBACK = "127.0.0.1"


class CannotRunHere(ValueError):
    """The job asks for something that only a cluster has; says what to do instead."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What stands in for the cluster."""

    output: Path
    """Absolute; every pod has a folder below."""
    secrets: Mapping[str, Mapping[str, str]] = field(repr=False)
    inherited: Mapping[str, str] = field(repr=False)
    """The environment of this process, which local programs need: PATH, HOME, a virtual environment."""
    rendezvous_port: int
    """Where the job's rendezvous store listens."""

    def work_directory(self, pod: str) -> Path:
        """What is the pod's work volume in a cluster; it outlives the pod here, downloads with it."""
        return self.output / "work" / pod

    def termination_message(self, pod: str) -> Path:
        """What is /dev/termination-log in a container."""
        return self.work_directory(pod) / "termination-log"

    def log(self, pod: str) -> Path:
        """Takes standard output and error of the pod."""
        return self.output / "logs" / f"{pod}.log"


@dataclass(frozen=True, kw_only=True)
class Command:
    """A program to start."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    metrics_port: int | None = None
    """Where it will answer for metrics and progress; None for the rendezvous store."""


def translate(pod: Mapping[str, Any], machine: Machine) -> Command:
    """The command of a pod's one container, with addresses, paths and ports of this machine.

    Raises:
        CannotRunHere: a variable refers to something that the machine does not have.
    """
    name = pod["metadata"]["name"]
    container = names.find_container(pod["spec"])
    declared = {variable["name"]: variable for variable in container.get("env", ())}
    resolved = {key: _resolve(variable, machine) for key, variable in declared.items()}
    environment = {key: value for key, value in resolved.items() if value is not None}
    replaced = {
        TERMINATION_MESSAGE_PATH: str(machine.termination_message(name)),
        WORK_DIRECTORY: str(machine.work_directory(name)),
    }
    environment = {key: _replace(value, replaced) for key, value in environment.items()}
    if Environment.RENDEZVOUS_ENDPOINT in environment:
        environment[Environment.RENDEZVOUS_ENDPOINT] = f"{LOOPBACK}:{machine.rendezvous_port}"
    port = environment.get(Environment.METRICS_PORT)
    if port is not None:
        # By index, for a port that another worker is about to take still looks free.
        preferred = int(port) + int(environment[Environment.REPLICA_INDEX])
        port = environment[Environment.METRICS_PORT] = str(free_port(preferred=preferred))
    inherited = {key: value for key, value in machine.inherited.items() if not key.startswith("KUBEDET_")}
    if "PYTHONPATH" in inherited and "PYTHONPATH" in environment:
        # Folders that are mounted into the container may have other paths on this machine.
        environment["PYTHONPATH"] += os.pathsep + inherited["PYTHONPATH"]
    program, *arguments = container["command"]
    return Command(
        arguments=(
            sys.executable if program.startswith("python") else program,
            *(_replace(argument, replaced) for argument in arguments),
        ),
        environment={**inherited, **environment},
        metrics_port=int(port) if port is not None else None,
    )


def free_port(*, preferred: int = 0) -> int:
    """A port that nobody listens on now: the preferred one if it is free."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except (OSError, OverflowError):  # taken, or beyond 65535
                continue
            return int(probe.getsockname()[1])
    raise CannotRunHere("no port is free on this machine")


def _replace(text: str, replaced: Mapping[str, str]) -> str:
    for here, there in replaced.items():
        text = text.replace(here, there)
    return text


def _resolve(variable: Mapping[str, Any], machine: Machine) -> str | None:
    """The value of a variable; None where an optional reference leads nowhere."""
    source = variable.get("valueFrom")
    if source is None:
        return str(variable.get("value", ""))
    if source.get("fieldRef", {}).get("fieldPath") == "status.podIP":
        return LOOPBACK
    if "secretKeyRef" not in source:
        raise CannotRunHere(
            f"environment variable {variable['name']}: got valueFrom {', '.join(source)}, must be value or "
            "secretKeyRef on this machine; write the value into the file"
        )
    reference = source["secretKeyRef"]
    name, key = reference["name"], reference["key"]
    value = machine.secrets.get(name, {}).get(key)
    if value is None and not reference.get("optional"):
        what = f"key {key} of Secret {name}" if name in machine.secrets else f"Secret {name}"
        raise CannotRunHere(
            f"{what}: absent, must be among the files of `kubedet run`; add a document of kind Secret with "
            "stringData accessKey and secretKey, or name its file too"
        )
    return value
