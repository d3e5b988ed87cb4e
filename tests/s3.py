"""Real S3 servers for tests, SeaweedFS and MinIO, on loopback, with ports and folders of their own."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import minio
import urllib3

ACCESS_KEY = "test-access-key"
SECRET_KEY = "test-secret-key"
READER_ACCESS_KEY = "reader-access-key"
READER_SECRET_KEY = "reader-secret-key"


@dataclass(frozen=True, kw_only=True)
class S3Server:
    """Where a server listens. Both keys may read, only the first may write."""

    endpoint: str
    """``http://127.0.0.1:port``"""
    tls_endpoint: str | None
    """``https://localhost:port``, if it was started with a certificate."""

    def client(self) -> minio.Minio:
        """A client that may do everything."""
        return minio.Minio(self.endpoint.removeprefix("http://"), ACCESS_KEY, SECRET_KEY, secure=False)

    def make_bucket(self, name: str) -> str:
        """Make a bucket; returns its name."""
        self.client().make_bucket(name)
        return name


@contextmanager
def run_s3_server(
    folder: Path, *, certificate: Path | None = None, key: Path | None = None
) -> Iterator[S3Server]:
    """Run a server with its data below `folder` until the block ends.

    With `certificate` and `key` (PEM files for ``localhost``) it also speaks TLS.
    """
    program = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    assert program, "the program `weed` is absent: install the extra `dev`"
    (folder / "data").mkdir(parents=True)
    (folder / "s3.json").write_text(json.dumps(_identities()))
    ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
    arguments = [
        program,
        "-logtostderr=true",
        "server",
        f"-dir={folder / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-filer",
        "-s3",
        f"-s3.config={folder / 's3.json'}",
        f"-s3.localSocket={folder / 's3.sock'}",
        f"-filer.localSocket={folder / 'filer.sock'}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.autoCreateBucket=false",
        "-s3.iam=false",
        "-master.volumeSizeLimitMB=64",
        "-master.telemetry=false",
        "-volume.max=1000",  # a bucket takes seven, and a full server answers 500
        *(f"-{name}={port}" for name, port in ports.items() if certificate or name != "s3.port.https"),
        *([f"-s3.cert.file={certificate}", f"-s3.key.file={key}"] if certificate else []),
    ]
    server = S3Server(
        endpoint=f"http://127.0.0.1:{ports['s3.port']}",
        tls_endpoint=f"https://localhost:{ports['s3.port.https']}" if certificate else None,
    )
    with _run(arguments, server, folder):
        yield server


@contextmanager
def run_minio(program: Path, folder: Path) -> Iterator[S3Server]:
    """Run MinIO with its data below `folder` until the block ends."""
    folder.mkdir(parents=True)
    (port,) = _free_ports(1)
    server = S3Server(endpoint=f"http://127.0.0.1:{port}", tls_endpoint=None)
    command, environment = minio_program(program, folder, f"127.0.0.1:{port}")
    with _run(command, server, folder, {**os.environ, **environment}):
        yield server


def minio_program(program: Path, folder: Path, address: str) -> tuple[list[str], dict[str, str]]:
    """The command that runs MinIO with its data below `folder`, and its environment."""
    command = [str(program), "server", str(folder / "data"), "--address", address, "--quiet"]
    environment = {
        "MINIO_ROOT_USER": ACCESS_KEY,
        "MINIO_ROOT_PASSWORD": SECRET_KEY,
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
        "HOME": str(folder),
    }
    return command, environment


@contextmanager
def _run(
    command: list[str], server: S3Server, folder: Path, environment: dict[str, str] | None = None
) -> Iterator[None]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment)
    try:
        _await(server, process, log=folder / "log")
        yield
    finally:
        process.kill()
        process.wait()


_PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
    "s3.port.https",
)


def _identities() -> dict[str, object]:
    def identity(name: str, access_key: str, secret_key: str, *actions: str) -> dict[str, object]:
        credentials = [{"accessKey": access_key, "secretKey": secret_key}]
        return {"name": name, "credentials": credentials, "actions": list(actions)}

    return {
        "identities": [
            identity("owner", ACCESS_KEY, SECRET_KEY, "Admin", "Read", "List", "Tagging", "Write"),
            identity("reader", READER_ACCESS_KEY, READER_SECRET_KEY, "Read", "List"),
        ]
    }


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]
    finally:
        for item in sockets:
            item.close()


def _await(server: S3Server, process: subprocess.Popen[bytes], *, log: Path) -> None:
    """Wait until buckets can be listed and an object can be stored."""
    deadline = time.monotonic() + 60
    client = minio.Minio(
        server.endpoint.removeprefix("http://"),
        ACCESS_KEY,
        SECRET_KEY,
        secure=False,
        http_client=urllib3.PoolManager(retries=False, timeout=2),
    )
    while True:
        try:
            if not client.bucket_exists("ready"):
                client.make_bucket("ready")
            client.put_object("ready", "probe", io.BytesIO(b"1"), 1)
            return
        except (urllib3.exceptions.HTTPError, minio.error.MinioException) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"the S3 server does not become ready ({error}):\n{tail}") from error
            time.sleep(0.2)
