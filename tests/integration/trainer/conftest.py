"""Fixtures of tests that run the trainer against real processes and a real object store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

import s3
from launched_worker import Worker
from throwaway import run


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.S3Server]:
    """A real S3 server for the whole session; make a bucket of your own."""
    with s3.run_s3_server(tmp_path_factory.mktemp("s3") / "server") as server:
        yield server


@pytest.fixture(scope="session")
def minio_server(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.S3Server]:
    """MinIO for the whole session."""
    programs = Path(run(shared / "cluster" / "unpack").strip().splitlines()[-1])
    with s3.run_minio(programs / "minio", tmp_path_factory.mktemp("minio") / "server") as server:
        yield server


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """A function that starts a worker whose ranks follow a plan for each of their starts."""
    workers: list[Worker] = []

    def start(*plan: Mapping[str, list[str]], name: str = "worker", **environment: str) -> Worker:
        workers.append(Worker(tmp_path / name, plan=list(plan), **environment))
        return workers[-1]

    yield start
    for worker in workers:
        if worker.process.poll() is None:
            worker.kill_all()
