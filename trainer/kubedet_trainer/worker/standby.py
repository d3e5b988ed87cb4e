"""The warm standby of a worker: ``python -m kubedet_trainer.worker.standby FD``, started by `launch`.

It imports torch and all that an agent or a rank needs, once, and forks them from itself on request: what
takes seconds to import is there at once, and its memory is shared. `warm` is the side that asks.

A fork copies one thread. This process therefore runs no operator of torch, touches no GPU and starts no
thread; it checks that before it serves, and otherwise ends, so that programs start the cold way.
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from kubedet_trainer.logs import configure_logging
from kubedet_trainer.worker import endings, processes, warm

_PRELOADED = (
    endings.AGENT_MODULE,
    f"{endings.RANK_MODULE}.__main__",
    "PIL.JpegImagePlugin",
    "PIL.PngImagePlugin",
    "pythonjsonlogger.json",
)
_CUDA_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"
"""With this variable torch asks NVML whether there is a GPU, which touches none."""

_PRELOADED_PACKAGES = ("kubedet_trainer.models", "kubedet_trainer.recipes")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Child:
    """A forked process, who asked for it, and where they wait for its end."""

    owner: int
    channel: socket.socket
    requests: socket.socket
    """Where it asks for processes of its own."""


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What a forked process is to run."""

    module: str
    arguments: list[str]


class _Server:
    """Forks processes. Tells whoever asked for one how it ended, after all that it had asked for itself."""

    def __init__(self, requests: socket.socket) -> None:
        self._selector = selectors.DefaultSelector()
        self._selector.register(requests, selectors.EVENT_READ, 0)
        self._children: dict[int, _Child] = {}
        self._ended: dict[int, tuple[_Child, int]] = {}
        self._woken, self._wake = socket.socketpair()
        for end in (self._woken, self._wake):
            end.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends after what it has forked
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        self._is_abandoned = False

    def serve(self) -> _Task | None:
        """Answer until the launcher is gone and all processes have ended. In a forked process: its task."""
        while not (self._is_abandoned and not self._children and not self._ended):
            for key, _ in self._selector.select():
                source = key.fileobj
                assert isinstance(source, socket.socket)
                if key.data is None:
                    source.recv(4096)
                elif (task := self._answer(source, owner=key.data)) is not None:
                    return task
            self._reap()
        return None

    def _answer(self, requests: socket.socket, *, owner: int) -> _Task | None:
        data, descriptors, _, _ = socket.recv_fds(requests, warm.MAX_REQUEST_BYTES, 3)
        if not data:
            self._selector.unregister(requests)
            if owner == 0:
                self._is_abandoned = True
                self._signal(self._of(owner), signal.SIGTERM)
            return None
        channel, stdout, stderr = descriptors
        request = json.loads(data)
        theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            ours.close()
            return self._become(request, requests=theirs, channel=channel, output=(stdout, stderr))
        theirs.close()
        for descriptor in (stdout, stderr):
            os.close(descriptor)
        self._children[pid] = _Child(owner=owner, channel=socket.socket(fileno=channel), requests=ours)
        self._selector.register(ours, selectors.EVENT_READ, pid)
        return None

    def _become(
        self, request: dict[str, Any], *, requests: socket.socket, channel: int, output: tuple[int, int]
    ) -> _Task:
        """Turn this copy of the standby into the process that was asked for."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()
        self._wake.close()
        for child in [*self._children.values(), *(child for child, _ in self._ended.values())]:
            child.channel.close()
        with socket.socket(fileno=channel) as waiting:  # not before it has a process group of its own
            if not _tell(waiting, {"pid": os.getpid()}):
                os._exit(0)  # nobody waits for it any longer
        for target, descriptor in enumerate(output, start=1):
            os.dup2(descriptor, target)
            os.close(descriptor)
        os.environ.update(request["environment"])
        warm.inherited = warm.Standby(requests)
        return _Task(module=request["module"], arguments=request["arguments"])

    def _reap(self) -> None:
        """Note which children have ended, end what they had asked for, and tell who waits for them."""
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
                pid, status = ended
                child = self._children.pop(pid)
                self._ended[pid] = (child, os.waitstatus_to_exitcode(status))
                self._signal(self._of(pid), signal.SIGKILL)
                with suppress(KeyError):  # it may have closed its end first
                    self._selector.unregister(child.requests)
                child.requests.close()
        for pid, (child, code) in list(self._ended.items()):
            if not self._of(pid):
                del self._ended[pid]
                _tell(child.channel, {"code": code})
                child.channel.close()

    def _of(self, owner: int) -> list[int]:
        return [pid for pid, child in self._children.items() if child.owner == owner]

    def _signal(self, pids: Iterable[int], number: signal.Signals) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            if number == signal.SIGKILL:
                with suppress(ProcessLookupError):  # it may not have a group of its own yet
                    os.killpg(pid, number)


def main() -> _Task | None:
    """Import everything, then serve. Returns in the standby itself at its end, and in each forked process."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    known = os.environ.get(_CUDA_CHECK)
    os.environ[_CUDA_CHECK] = "1"
    for module in (*_PRELOADED, *_submodules()):
        importlib.import_module(module)
    torch.compiler.reset()  # imports the compiler, as the first step of any optimiser does
    if known is None:
        del os.environ[_CUDA_CHECK]
    if (obstacle := processes.fork_obstacle()) is not None:
        configure_logging()
        _logger.warning("no warm standby: after its imports it %s", obstacle)
        requests.send(obstacle.encode())  # another one would end like this one
        return None
    gc.collect()
    gc.freeze()  # a collection in a forked process would write to, and so copy, what it shares
    return _Server(requests).serve()


def _submodules() -> list[str]:
    packages = [importlib.import_module(name) for name in _PRELOADED_PACKAGES]
    return [
        module.name
        for package in packages
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if not module.name.endswith(".__main__")
    ]


def _tell(channel: socket.socket, message: dict[str, int]) -> bool:
    """Send `message` to who waits at the other end. Returns False if nobody does."""
    try:
        channel.send(json.dumps(message).encode())
    except OSError:
        return False
    return True


def _run(task: _Task) -> None:
    """Run the task as ``python -m`` would."""
    for name in (task.module, f"{task.module}.__main__"):
        if name in sys.modules and not hasattr(sys.modules[name], "__path__"):
            del sys.modules[name]  # what runs is another module, named __main__
    sys.argv = [task.module, *task.arguments]
    runpy.run_module(task.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    if (task := main()) is not None:
        _run(task)
