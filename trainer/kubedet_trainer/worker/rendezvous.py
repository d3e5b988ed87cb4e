"""The rendezvous store of a job with several workers: ``python -m kubedet_trainer.worker.rendezvous``.

It lives outside the workers, so that losing any of them costs one new rendezvous and no more. It holds only
what one round can make again: when it is restarted, the workers' agents come back by themselves.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Mapping
from types import FrameType

from kubedet_trainer.contract import RENDEZVOUS_MODULE, RENDEZVOUS_PORT, Environment
from kubedet_trainer.errors import TrainerError, UsageError
from kubedet_trainer.logs import configure_logging

_logger = logging.getLogger(RENDEZVOUS_MODULE)  # run with -m, its own name is __main__


def main() -> int:
    """Hold the store until SIGTERM or SIGINT; returns the exit code."""
    configure_logging()
    for number in (signal.SIGTERM, signal.SIGINT):  # before torch is imported: PID 1 has no default action
        signal.signal(number, _leave)
    try:
        hold_store(port=read_port(os.environ))
    except TrainerError as error:
        _logger.error(str(error))
        return error.exit_code
    return 0


def read_port(environment: Mapping[str, str]) -> int:
    """The port of the endpoint that the workers are told, or the default one.

    Raises:
        UsageError: the endpoint is not ``host:port``.
    """
    endpoint = environment.get(Environment.RENDEZVOUS_ENDPOINT)
    if not endpoint:
        return RENDEZVOUS_PORT
    _, _, port = endpoint.rpartition(":")
    if not port.isdecimal():
        raise UsageError(f"{Environment.RENDEZVOUS_ENDPOINT}: got '{endpoint}', must be host:port")
    return int(port)


def hold_store(*, port: int) -> None:
    """Listen on `port` of all interfaces, for ever.

    Raises:
        UsageError: the port is taken.
    """
    from torch.distributed import DistNetworkError, TCPStore  # type: ignore[attr-defined]

    try:
        store = TCPStore("localhost", port, is_master=True, wait_for_workers=False)
    except DistNetworkError as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{Environment.RENDEZVOUS_ENDPOINT}: port {port} must be free ({reason})") from error
    _logger.info("the rendezvous store listens", extra={"port": store.port})
    while True:
        signal.pause()


def _leave(number: int, frame: FrameType | None) -> None:
    _logger.info("the rendezvous store ends", extra={"signal": signal.Signals(number).name})
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
