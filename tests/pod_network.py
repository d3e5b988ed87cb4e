"""A network of hosts that can be cut off, in a network namespace of the test's own.

Each host has a namespace of its own and one cable to a bridge, as a pod has. `ISOLATE` runs a program where
that takes no privilege, and where nothing of it outlives the program.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

ISOLATE = (
    "unshare",
    "--user",
    "--map-root-user",
    "--net",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
)
"""Runs the command that follows in namespaces of its own."""

_BRIDGE = "pods"


@dataclass(frozen=True)
class Host:
    """A namespace with an address."""

    name: str
    address: str

    def command(self, *words: str) -> list[str]:
        """The command that runs `words` here."""
        return ["ip", "netns", "exec", self.name, *words]

    def cut(self) -> None:
        """Pull the cable: nothing arrives or leaves, and no connection ends."""
        _ip("link", "set", self.name, "down")

    def heal(self) -> None:
        """Put the cable back."""
        _ip("link", "set", self.name, "up")


class Network:
    """Hosts by name, which keep their addresses for ever."""

    def __init__(self) -> None:
        """Make the loopback of this process usable, which must run in `ISOLATE`."""
        self._prefix = ""
        self._hosts: dict[str, Host] = {}
        _run("mount", "-t", "tmpfs", "namespaces", "/run")
        _ip("link", "set", "lo", "up")

    def open(self, gateway: str) -> None:
        """Make the bridge. This process has the address `gateway` there, which ends in ``.1``."""
        self._prefix, _, _ = gateway.rpartition(".")
        _ip("link", "add", _BRIDGE, "type", "bridge")
        _ip("address", "add", f"{gateway}/24", "dev", _BRIDGE)
        _ip("link", "set", _BRIDGE, "up")

    def host(self, key: str) -> Host:
        """The host of this name, which is made when it is first asked for."""
        if (known := self._hosts.get(key)) is not None:
            return known
        number = len(self._hosts) + 10
        host = self._hosts[key] = Host(name=f"host{number}", address=f"{self._prefix}.{number}")
        _ip("netns", "add", host.name)
        _ip("link", "add", host.name, "type", "veth", "peer", "name", "eth0", "netns", host.name)
        _ip("link", "set", host.name, "master", _BRIDGE, "up")
        for words in (
            ("address", "add", f"{host.address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            _ip("-n", host.name, *words)
        return host


def _ip(*words: str) -> None:
    _run("ip", *words)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
