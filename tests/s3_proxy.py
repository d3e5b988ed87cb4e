"""An unreliable way to an S3 server: refusals, cut connections, damaged uploads, all of one seed.

    python tests/s3_proxy.py --server 127.0.0.1:8333 --journal FILE [--chance 0.03] [--seed 0]

prints its port, and writes a line into the journal for each fault before it happens.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import random
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FAULTS = (
    "503 instead",
    "503 afterwards",
    "507 instead",
    "reset before",
    "reset afterwards",
    "answer cut",
    "slow",
)
UPLOAD_FAULTS = ("bit flipped in an upload", "upload cut")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Proxy

    def do(self) -> None:
        """Pass a request on, or let it fail."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.draw(is_upload=len(body) > 1000 and self.command == "PUT")
        if fault == "slow":
            time.sleep(0.2)
        if fault in ("503 instead", "507 instead"):
            self._refuse(int(fault[:3]))
        elif fault == "reset before":
            self._reset()
        elif fault == "upload cut":
            self._begin_upload(body[: len(body) // 2])
        else:
            middle = len(body) // 2
            if fault == "bit flipped in an upload":
                body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
            self._pass_on(body, fault)

    def __getattr__(self, name: str) -> Any:
        """`do` for every method."""
        if name.startswith("do_"):
            return self.do
        raise AttributeError(name)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.server.target, timeout=60)

    def _pass_on(self, body: bytes, fault: str | None) -> None:
        with contextlib.closing(self._connect()) as connection:
            self._send(connection, body)
            response = connection.getresponse()
            headers, answer = response.getheaders(), response.read()
        if fault == "503 afterwards":
            self._refuse(503)
        elif fault == "reset afterwards":
            self._reset()
        else:
            self._answer(response.status, headers, answer, is_cut=fault == "answer cut" and len(answer) > 1)

    def _send(self, connection: http.client.HTTPConnection, body: bytes) -> None:
        # The signature is over the headers as they are, so that none may change.
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            connection.putheader(name, value)
        connection.endheaders(body)

    def _begin_upload(self, part: bytes) -> None:
        with contextlib.closing(self._connect()) as connection, contextlib.suppress(OSError):
            self._send(connection, part)
        self._reset()

    def _answer(
        self, status: int, headers: list[tuple[str, str]], body: bytes, *, is_cut: bool = False
    ) -> None:
        self.send_response(status)
        length = next((value for name, value in headers if name.lower() == "content-length"), str(len(body)))
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if is_cut else body)
        if is_cut:
            self._reset()

    def _refuse(self, status: int) -> None:
        code = "SlowDown" if status == 503 else "InsufficientStorage"
        body = f"<Error><Code>{code}</Code><Message>x</Message></Error>".encode()
        self._answer(status, [("Content-Type", "application/xml")], b"" if self.command == "HEAD" else body)

    def _reset(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, target: str, *, journal: Path, chance: float, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target
        self._journal = journal
        self._chance = chance
        self._fate = random.Random(seed)
        self._lock = threading.Lock()

    def draw(self, *, is_upload: bool) -> str | None:
        """What happens to a request."""
        with self._lock:
            if self._fate.random() >= self._chance:
                return None
            fault = self._fate.choice(FAULTS + (UPLOAD_FAULTS * 3 if is_upload else ()))
            with self._journal.open("a") as file:
                file.write(f"{fault}\n")
            return fault


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", required=True)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--chance", type=float, default=0.03)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    proxy = _Proxy(asked.server, journal=asked.journal, chance=asked.chance, seed=asked.seed)
    print(proxy.server_address[1], flush=True)
    proxy.serve_forever()


if __name__ == "__main__":
    main()
