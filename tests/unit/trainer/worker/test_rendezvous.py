"""The rendezvous store: it behaves like torch's own, and takes a fraction of the memory."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import (  # type: ignore[attr-defined]
    DistNetworkError,
    DistStoreError,
    HashStore,
    PrefixStore,
    Store,
)

from kubedet_trainer.errors import UsageError
from kubedet_trainer.worker.rendezvous import StoreServer, parse_endpoint, read_port
from kubedet_trainer.worker.store_client import StoreClient


@pytest.fixture
def endpoint() -> Iterator[str]:
    with StoreServer(0).serving() as port:
        yield f"127.0.0.1:{port}"


Connect = Callable[[str], StoreClient]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Makes clients of an endpoint, whose connections end with the test."""
    with contextlib.ExitStack() as stack:

        def connect(endpoint: str) -> StoreClient:
            return stack.enter_context(contextlib.closing(StoreClient(endpoint, timeout_seconds=60)))

        yield connect


@pytest.fixture(params=["torch's own", "ours", "ours behind a prefix"])
def store(request: pytest.FixtureRequest, endpoint: str, connect: Connect) -> Iterator[Store]:
    if request.param == "torch's own":
        yield HashStore()
        return
    client = connect(endpoint)
    yield PrefixStore("round-1", client) if request.param == "ours behind a prefix" else client


@pytest.mark.parametrize(
    ("environment", "port"),
    [({}, 29400), ({"KUBEDET_RENDEZVOUS_ENDPOINT": "job-rdzv.team.svc:29555"}, 29555)],
)
def test_port_is_that_of_the_endpoint(environment: dict[str, str], port: int) -> None:
    assert read_port(environment) == port


@pytest.mark.parametrize("endpoint", ["host", "host:", ":29400", "host:port"])
def test_endpoint_without_host_or_port_is_refused(endpoint: str) -> None:
    with pytest.raises(UsageError, match=f"KUBEDET_RENDEZVOUS_ENDPOINT: got '{endpoint}', must be host:port"):
        parse_endpoint(endpoint)


def test_values_come_back_byte_for_byte(store: Store) -> None:
    store.set("text", "café\n")
    store.set("bytes", bytes(range(256)))  # type: ignore[arg-type]  # the stubs know only text
    assert store.get("text") == "café\n".encode()
    assert store.get("bytes") == bytes(range(256))
    assert store.multi_get(["bytes", "text"]) == [bytes(range(256)), "café\n".encode()]


def test_counter_begins_at_0_and_counts_every_call(store: Store) -> None:
    assert [store.add("members", 1), store.add("members", 2)] == [1, 3]


def test_compare_set_writes_only_over_the_expected_value(store: Store) -> None:
    assert store.compare_set("state", "", "first") == b"first"
    assert store.compare_set("state", "", "second") == b"first"
    assert store.compare_set("state", "other", "second") == b"first"
    assert store.compare_set("state", "first", "second") == b"second"
    assert store.get("state") == b"second"
    assert store.compare_set("absent", "expected", "desired") == b"expected"


def test_wait_for_a_key_that_nobody_sets_ends_with_an_error(store: Store) -> None:
    with pytest.raises(DistStoreError):
        store.wait(["absent"], timedelta(milliseconds=50))
    store.set_timeout(timedelta(milliseconds=50))
    with pytest.raises(DistStoreError):
        store.get("absent")


def test_wait_ends_when_another_client_sets_the_last_key(endpoint: str, connect: Connect) -> None:
    waiting, other = (connect(endpoint) for _ in range(2))
    other.set("first", "1")
    thread = threading.Thread(target=waiting.wait, args=(["first", "last"],))
    thread.start()
    other.set("last", "2")
    thread.join(60)
    assert not thread.is_alive()


def test_thread_that_waits_lets_other_threads_of_its_client_through(endpoint: str, connect: Connect) -> None:
    client = connect(endpoint)
    thread = threading.Thread(target=client.wait, args=(["done"],))
    thread.start()
    assert client.add("keep-alives", 1) == 1
    assert thread.is_alive()
    client.set("done", "")
    thread.join(60)
    assert not thread.is_alive()


def test_concurrent_clients_lose_no_count(endpoint: str, connect: Connect) -> None:
    def count() -> None:
        client = connect(endpoint)
        for _ in range(50):
            client.add("members", 1)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert connect(endpoint).add("members", 0) == 400


def test_absent_store_is_a_network_error_that_names_it() -> None:
    with pytest.raises(DistNetworkError, match=r"no rendezvous store at 127\.0\.0\.1:1"):
        StoreClient("127.0.0.1:1", timeout_seconds=60)


def test_client_does_not_connect_to_the_store_that_replaces_its_own(connect: Connect) -> None:
    script = (
        "import sys; from kubedet_trainer.worker.rendezvous import StoreServer\n"
        "with StoreServer(int(sys.argv[1])).serving() as port: print(port, flush=True); sys.stdin.read()"
    )

    def start(port: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", script, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    with start(0) as first:
        assert first.stdout is not None
        port = int(first.stdout.readline())
        client = connect(f"127.0.0.1:{port}")
        client.set("key", "value")
        first.kill()
    with pytest.raises(DistNetworkError, match="does not answer"):
        client.get("key")
    with start(port) as second:
        assert second.stdout is not None
        second.stdout.readline()
        with pytest.raises(DistNetworkError, match="is lost"):
            client.set("key", "value")
        connect(f"127.0.0.1:{port}").set("key", "value")
        second.kill()


@pytest.mark.parametrize("request_line", [b"GET / HTTP/1.1\r\n", b'["erase", "key"]\n', b'["get"]\n', b"7\n"])
def test_invalid_request_closes_only_its_own_connection(
    endpoint: str, connect: Connect, request_line: bytes
) -> None:
    client = connect(endpoint)
    client.set("key", "value")
    with socket.create_connection(parse_endpoint(endpoint), timeout=60) as stranger:
        stranger.sendall(request_line)
        assert stranger.recv(1) == b""
    assert client.get("key") == b"value"


def test_process_imports_no_torch_stays_small_and_ends_with_0_on_sigterm() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "kubedet_trainer.worker.rendezvous"],
        env={**os.environ, "KUBEDET_RENDEZVOUS_ENDPOINT": "store:0"},
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        assert "the rendezvous store listens" in process.stderr.readline()
        assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
        status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        own = next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))
        assert own < 24 * 1024
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


def test_taken_port_is_named() -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"KUBEDET_RENDEZVOUS_ENDPOINT: got {port}, must be a free port"):
            StoreServer(port)
