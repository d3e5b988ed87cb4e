"""Two ranks as processes of their own, which know what the test has prepared because they are forked."""

from __future__ import annotations

import multiprocessing
import socket
from collections.abc import Callable


def run_ranks(target: Callable[..., None], *arguments: object) -> None:
    """Call `target` with rank, port of a rendezvous and `arguments` on two ranks; both must end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=target, args=(rank, port, *arguments)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=60)
    assert [process.exitcode for process in ranks] == [0, 0]
