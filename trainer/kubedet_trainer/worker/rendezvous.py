"""The rendezvous store of a job with several workers: ``python -m kubedet_trainer.worker.rendezvous``.

The store runs in a pod of its own, so the loss of any worker costs one new rendezvous and no more. It keeps
its values in memory. After a restart it is empty, and the agents of the workers meet again by themselves.

A client sends one JSON array a line, the name of an operation and its arguments, and reads one JSON value
a line in return. `store_client` is the client for values, `peers` that for meetings. This process imports no
torch: torch's own store would take 280 MB of memory for a few kilobytes of values.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import socketserver
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from kubedet_trainer.contract import RENDEZVOUS_MODULE, RENDEZVOUS_PORT, Environment
from kubedet_trainer.errors import TrainerError, UsageError
from kubedet_trainer.logs import configure_logging
from kubedet_trainer.worker.meeting import Meeting
from kubedet_trainer.worker.server import Server

MAX_REQUEST_BYTES = 2**24
"""The store closes a connection that sends a longer line."""

SILENCE_SECONDS = 10.0
"""How long an agent may send nothing before it counts as lost: its node may be cut off, or it is stopped."""

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_logger = logging.getLogger(RENDEZVOUS_MODULE)  # with -m, __name__ is __main__


def main() -> int:
    """Serve the store until SIGTERM or SIGINT. Returns the exit code."""
    configure_logging()
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)  # `sigwait` takes them, also as PID 1
    try:
        with StoreServer(read_port(os.environ)).serving() as port:
            _logger.info("the rendezvous store listens", extra={"port": port})
            received = signal.sigwait(_STOP_SIGNALS)
    except TrainerError as error:
        _logger.error(str(error))
        return error.exit_code
    _logger.info("the rendezvous store ends", extra={"signal": signal.Signals(received).name})
    return 0


def read_port(environment: Mapping[str, str]) -> int:
    """The port in the endpoint that the workers get, or the default port.

    Raises:
        UsageError: the endpoint is not ``host:port``.
    """
    endpoint = environment.get(Environment.RENDEZVOUS_ENDPOINT)
    return parse_endpoint(endpoint)[1] if endpoint else RENDEZVOUS_PORT


def parse_endpoint(endpoint: str) -> tuple[str, int]:
    """Host and port of ``host:port``.

    Raises:
        UsageError: `endpoint` is something else.
    """
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"{Environment.RENDEZVOUS_ENDPOINT}: got '{endpoint}', must be host:port")
    return host, int(port)


class Store:
    """Text values by key. Each operation is atomic and means what it means in `torch.distributed.Store`."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self._lock = threading.Lock()

    def get(self, key: str) -> str | None:
        """The value, or None before somebody has set it."""
        return self._values.get(key)

    def set(self, key: str, value: str) -> None:
        """Set the value."""
        with self._lock:
            self._values[key] = value

    def add(self, key: str, amount: int) -> int:
        """Add to a counter that begins at 0. Returns the sum."""
        with self._lock:
            total = int(self._values.get(key, "0")) + amount
            self._values[key] = str(total)
            return total

    def compare_set(self, key: str, expected: str, desired: str) -> str:
        """Set the value to `desired` if it is `expected`, or if there is none and `expected` is empty.

        Returns:
            The value afterwards; `expected` if there is none.
        """
        with self._lock:
            if self._values.get(key, "") == expected:
                self._values[key] = desired
            return self._values.get(key, expected)


_OPERATIONS: dict[str, Callable[..., Any]] = {
    operation.__name__: operation for operation in (Store.get, Store.set, Store.add, Store.compare_set)
}


class StoreServer(Server):
    """Serves one store, empty at first, to any number of clients."""

    def __init__(self, port: int) -> None:
        self.store = Store()
        self.meetings: defaultdict[str, Meeting] = defaultdict(Meeting)
        """By the id of the run."""
        self.seats: dict[str, object] = {}
        """The connection by which each agent is there, by its name: an older one may end later."""
        super().__init__(port, _Connection, variable=Environment.RENDEZVOUS_ENDPOINT)


class _Connection(socketserver.StreamRequestHandler):
    server: StoreServer
    disable_nagle_algorithm = True

    def setup(self) -> None:
        """Belong to no agent at first."""
        super().setup()
        self._agent: tuple[Meeting, str] | None = None

    def handle(self) -> None:
        """Answer requests until the client leaves or sends something that is none."""
        try:
            while line := self.rfile.readline(MAX_REQUEST_BYTES):
                name, *arguments = json.loads(line)
                if name == "meet":
                    answer = self._meet(*arguments)
                else:
                    answer = _OPERATIONS[name](self.server.store, *arguments)
                self.wfile.write(json.dumps(answer).encode() + b"\n")
        except TimeoutError:
            _logger.warning("an agent has been silent for %d s", SILENCE_SECONDS)
        except ConnectionError:
            return
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            _logger.warning("closed a connection: its request is invalid", extra={"error": repr(error)})
        finally:
            self._leave()

    def _meet(self, run: str, operation: str, *arguments: Any) -> Any:
        meeting = self.server.meetings[run]
        if operation == "close":
            meeting.close()
            return None
        if operation == "look":
            return meeting.look(*arguments)
        if operation == "break_up":
            return meeting.break_up(*arguments)
        name = arguments[0]["name"] if operation == "join" else arguments[0]
        self._agent = (meeting, name)
        self.server.seats[name] = self
        self.connection.settimeout(SILENCE_SECONDS)
        if operation == "join":
            return meeting.join(*arguments, is_there=self._is_there)
        if operation == "attach":
            return meeting.attach(*arguments)
        raise ValueError(f"no operation {operation}")

    def _leave(self) -> None:
        if self._agent is None:
            return
        meeting, name = self._agent
        if self.server.seats.get(name) is self:
            del self.server.seats[name]
            meeting.leave(name)

    def _is_there(self) -> bool:
        """Whether the client, which waits for an answer, has its end of the connection open."""
        self.connection.settimeout(0)
        try:
            return bool(self.connection.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            self.connection.settimeout(SILENCE_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
