"""Programs of a worker: forked from a warm standby where there is one, and otherwise new processes.

Both kinds look like `subprocess.Popen`. This module imports no torch.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

STANDBY_MODULE = "kubedet_trainer.worker.standby"
"""The module that ``python -m`` runs as the standby."""

MAX_REQUEST_BYTES = 65536
"""The longest request: a module, its arguments, and the variables that differ from the standby's."""

_POLL_SECONDS = 0.02
_END_SECONDS = 5

_logger = logging.getLogger(__name__)


class Program(Protocol):
    """A running program, as `subprocess.Popen` shows it."""

    @property
    def pid(self) -> int:
        """Its process id, which is also that of its process group."""

    @property
    def returncode(self) -> int | None:
        """Its exit code as far as `poll` knows: negative for a signal."""

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended.

        Raises:
            subprocess.TimeoutExpired: it runs for longer than `timeout` seconds.
        """

    def send_signal(self, sig: int) -> None:
        """Send it a signal, unless it has ended."""

    def kill(self) -> None:
        """Kill it, unless it has ended."""


class ForkedProgram:
    """A program that the standby forked or is about to fork."""

    def __init__(self, channel: socket.socket) -> None:
        """Take the end of a socket on which the standby says which process it is, and how it ended."""
        self._channel = channel
        self._channel.setblocking(False)
        self._pid: int | None = None
        self.returncode: int | None = None

    @property
    def pid(self) -> int:
        """Its process id; 0 while the standby is still importing."""
        if self._pid is None:
            self.poll()
        return self._pid or 0

    def poll(self) -> int | None:
        """Its exit code, or None while it runs. A program whose standby was lost counts as killed."""
        while self.returncode is None:
            try:
                data = self._channel.recv(1024)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            message = json.loads(data) if data else {"code": -signal.SIGKILL}
            if "pid" in message:
                self._pid = message["pid"]
                continue
            if not data and self._pid:
                with suppress(ProcessLookupError):
                    os.killpg(self._pid, signal.SIGKILL)
            self.returncode = message["code"]
            self._channel.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended. See `Program`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(STANDBY_MODULE, timeout or 0.0)
            time.sleep(_POLL_SECONDS)
        return code

    def send_signal(self, sig: int) -> None:
        """Send it a signal. One that was not forked yet will not be."""
        if self.poll() is not None:
            return
        if self._pid:
            with suppress(ProcessLookupError):
                os.kill(self._pid, sig)
        else:
            self.returncode = -sig
            self._channel.close()

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)


class Standby:
    """Asks a standby for processes."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests

    def fork(
        self,
        module: str,
        *,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        output: tuple[int, int],
    ) -> ForkedProgram:
        """Have the standby fork itself and run `module`.

        Args:
            module: as for ``python -m``.
            arguments: of the program.
            environment: what differs from the environment of the standby.
            output: descriptors for standard output and standard error.

        Raises:
            OSError: the standby is gone.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = {"module": module, "arguments": list(arguments), "environment": dict(environment)}
        with theirs:
            try:
                socket.send_fds(self._requests, [json.dumps(request).encode()], [theirs.fileno(), *output])
            except OSError:
                ours.close()
                raise
        return ForkedProgram(ours)


inherited: Standby | None = None
"""In a process that a standby forked: that standby."""


class OwnStandby(Standby):
    """A standby that this process has started, and starts again when it is lost."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Start it, with an environment that everything has that it forks."""
        self._environment = dict(environment)
        self._process, requests = _start_standby(self._environment)
        super().__init__(requests)

    def renew(self) -> None:
        """Start another standby if this one was killed; not if it has ended by itself, since it cannot serve.

        What the lost one had forked counts as killed, so nothing uses it any longer.
        """
        if self._is_lost():
            _logger.warning("the warm standby is lost and starts again")
            self.end()
            self._process, self._requests = _start_standby(self._environment)

    def _is_lost(self) -> bool:
        try:
            said = self._requests.recv(MAX_REQUEST_BYTES, socket.MSG_DONTWAIT | socket.MSG_PEEK)
        except BlockingIOError:
            return False  # it lives
        except ConnectionResetError:  # it left a request unread; this error comes once
            return self._is_lost()
        return not said  # otherwise it has said why it cannot serve

    def end(self) -> None:
        """End it, once all that it has forked has ended."""
        self._requests.close()
        self._process.terminate()  # which it heeds only while it is still importing
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def standby(environment: Mapping[str, str]) -> Iterator[OwnStandby | None]:
    """Start a standby that ends with the block. None where the system has none: only Linux does."""
    if sys.platform != "linux":
        yield None
        return
    started = OwnStandby(environment)
    try:
        yield started
    finally:
        started.end()


def _start_standby(environment: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """The process of a new standby, and where it is asked for others."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", STANDBY_MODULE, str(theirs.fileno())],
            env=environment,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    return process, ours


def start(
    module: str,
    *,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    changes: Mapping[str, str],
    output: tuple[int, int],
    using: Standby | None,
) -> Program:
    """Start ``python -m module`` in a session of its own.

    Args:
        module: the module to run.
        arguments: of the program.
        environment: the environment of the standby.
        changes: what the program has in addition.
        output: descriptors for standard output and standard error.
        using: the standby to fork it from, if there is one.
    """
    if using is not None:
        try:
            return using.fork(module, arguments=arguments, environment=changes, output=output)
        except OSError as error:
            _logger.warning(
                "there is no warm standby; %s starts without it", module, extra={"error": str(error)}
            )
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env={**environment, **changes},
        stdout=output[0],
        stderr=output[1],
        start_new_session=True,
    )
