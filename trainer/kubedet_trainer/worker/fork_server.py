"""The server that a rank's loader workers are forked from: a fork of the rank before it has done anything.

A fork copies one thread, and with it whatever locks and thread pools the others had left in use. A rank that
trains has threads of CUDA, NCCL, OpenMP and its saver. At its start it has one thread, has imported all that
a worker needs, and shares that memory. multiprocessing's own fork server would import it all again, for each
rank.
"""

from __future__ import annotations

import logging
import multiprocessing.forkserver as forkserver
import os
import signal
import socket
import sys
from multiprocessing import util
from typing import Any

from kubedet_trainer.data.forked import STOP_SIGNALS
from kubedet_trainer.worker import processes

_logger = logging.getLogger(__name__)


def start() -> None:
    """Fork the server from this process, unless that is not safe; multiprocessing then starts its own."""
    if sys.platform != "linux":  # elsewhere nothing says whether it is safe
        return
    if (obstacle := processes.fork_obstacle()) is not None:
        _logger.info("loader processes get a server that imports torch again: this process %s", obstacle)
        return
    address = f"{util.get_temp_dir()}/fork-server"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        os.chmod(address, 0o600)
        listener.listen()
        alive_read, alive_write = os.pipe()
        if (pid := os.fork()) == 0:
            os.close(alive_write)
            _serve(listener, alive_read)
    os.close(alive_read)
    # What `ensure_running` notes of a server that it has started.
    server: Any = forkserver._forkserver
    server._forkserver_address, server._forkserver_alive_fd, server._forkserver_pid = (
        address,
        alive_write,
        pid,
    )


def _serve(listener: socket.socket, alive: int) -> None:
    """Answer until nobody is left who holds the other end of `alive`; never returns."""
    try:
        # Workers inherit this, too: none is ended by a signal before it ignores it.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        forkserver.main(listener.detach(), alive, preload=[])
    except Exception:
        _logger.exception("the server of loader processes ends")
    finally:
        os._exit(0)
