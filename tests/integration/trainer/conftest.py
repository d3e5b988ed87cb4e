"""Fixtures of tests that run the trainer against real processes and a real object store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import s3


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.S3Server]:
    """A real S3 server for the whole session; make a bucket of your own."""
    with s3.run_s3_server(tmp_path_factory.mktemp("s3") / "server") as server:
        yield server
