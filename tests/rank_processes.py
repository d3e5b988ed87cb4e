"""Two ranks as processes of their own.

They are new processes, not forks: a fork of a test process has its thread pools without their threads, and
waits for them for ever.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import socket
from collections.abc import Callable
from pathlib import Path


def run_ranks(target: Callable[..., None], *arguments: object) -> None:
    """Call `target` with rank, port of a rendezvous and `arguments` on two ranks; both must end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    function = (Path(target.__code__.co_filename), target.__name__)
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=_call, args=(*function, rank, port, *arguments)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=120)
    ends = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
    assert ends == [0, 0], f"exit codes {ends}; None is a rank that still ran after 120 s"


def _call(file: Path, name: str, *arguments: object) -> None:
    """Call a function of a test's file, which has no name to import it by."""
    specification = importlib.util.spec_from_file_location(file.stem, file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    getattr(module, name)(*arguments)
