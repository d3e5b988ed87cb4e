"""A small server of the standard library that both ports of a job use: metrics and the rendezvous store."""

from __future__ import annotations

import errno
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from kubedet_trainer.errors import UsageError


class Server(socketserver.ThreadingTCPServer):
    """Listens on all interfaces, IPv6 and IPv4, and gives each connection a thread."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128  # all workers of a job connect together

    def __init__(self, port: int, handler: type[socketserver.BaseRequestHandler], *, variable: str) -> None:
        """Bind `port`. The system chooses one if it is 0.

        Raises:
            UsageError: the port is taken, or this process may not bind it. The message names `variable`, the
                environment variable that the port came from.
        """
        if socket.has_dualstack_ipv6():  # a cluster may have either family, or both
            self.address_family = socket.AF_INET6
        try:
            super().__init__(("", port), handler)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise UsageError(f"{variable}: got {port}, must be a free port ({error.strerror})") from error

    def server_bind(self) -> None:
        """Accept IPv4 on the same socket."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    @contextmanager
    def serving(self) -> Iterator[int]:
        """Answer in the background until the block ends. Yields the port."""
        thread = threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True)
        thread.start()
        try:
            yield int(self.server_address[1])
        finally:
            self.shutdown()
            self.server_close()
            thread.join()
