"""The fork server that processes which read data come from. Imports no torch."""

from __future__ import annotations

import signal
from multiprocessing import forkserver, get_context, resource_tracker
from multiprocessing.context import ForkServerContext

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""What a process may be asked to stop by. Forked ones are born with these blocked: none is ended by one
before it has said what it does on a stop."""


def context(module: str) -> ForkServerContext:
    """Make sure that the server runs; if it starts only now, it imports `module`, once for all processes."""
    server = get_context("forkserver")
    server.set_forkserver_preload([module])
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        resource_tracker.ensure_running()  # unblocks these signals as it starts, in Python 3.11
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return server


def hear_stops() -> None:
    """Unblock the signals, in a process that has said what it does on a stop."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
