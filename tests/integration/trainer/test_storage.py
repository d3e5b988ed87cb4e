"""The object store over a folder and over a real S3 server, and what it says when things go wrong."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import minio
import minio.time
import pytest
import urllib3

import s3
from http_servers import Handler, serve
from kubedet_trainer.errors import CredentialsRefused, InvalidInput, MissingInput, StorageUnreachable
from kubedet_trainer.settings import StoreCredentials
from kubedet_trainer.storage import s3 as s3_store
from kubedet_trainer.storage.store import Store, StoredObject
from kubedet_trainer.storage.uris import fetch_object, open_store


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "file":
        return open_store(f"file://{tmp_path}/below/here")
    server = request.getfixturevalue("s3_server")
    bucket = server.make_bucket(f"b{hashlib.sha1(str(tmp_path).encode()).hexdigest()[:20]}")
    return open_store(f"s3://{bucket}/below/here/", _credentials(server))


def _credentials(server: s3.S3Server, **changes: str | None) -> StoreCredentials:
    values = {"endpoint": server.endpoint, "access_key": s3.ACCESS_KEY, "secret_key": s3.SECRET_KEY}
    return StoreCredentials(**{**values, **changes})


def test_what_was_put_is_got_listed_and_deleted(store: Store, tmp_path: Path) -> None:
    with store.writing("step-1/state.pt") as sink:
        sink.write(b"from ")
        sink.write(memoryview(b"a file"))
    store.put_bytes("step-1/manifest.json", data=b"{}")
    store.put_bytes("step-10/manifest.json", data=b"[]")
    store.put_bytes("other", data=b"")

    assert store.get_bytes("step-1/state.pt") == b"from a file"
    assert store.sha256("step-1/state.pt") == hashlib.sha256(b"from a file").hexdigest()
    store.get_file("step-1/state.pt", target=tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_bytes() == b"from a file"
    assert list(store.list("step-")) == [
        StoredObject(key="step-1/manifest.json", size=2),
        StoredObject(key="step-1/state.pt", size=11),
        StoredObject(key="step-10/manifest.json", size=2),
    ]
    assert [item.key for item in store.list("step-1/")] == ["step-1/manifest.json", "step-1/state.pt"]
    assert next(store.list()).key == "other"

    store.delete(["step-1/manifest.json", "step-1/state.pt", "step-1/never-was"])
    assert [item.key for item in store.list()] == ["other", "step-10/manifest.json"]
    assert store.exists("other")
    assert not store.exists("step-1/state.pt")
    assert not store.exists("step-10")


def test_a_second_put_replaces_the_first(store: Store) -> None:
    store.put_bytes("key", data=b"long first value")
    store.put_bytes("key", data=b"second")
    assert store.get_bytes("key") == b"second"


def test_an_object_of_several_parts_comes_back_whole(store: Store, tmp_path: Path) -> None:
    content = bytes(range(256)) * 4096 * 35  # 35 MiB: more than two parts of an upload to S3
    with store.writing("large") as sink:
        sink.write(content[:1000])
        sink.write(content[1000:])
    store.get_file("large", target=tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content


@pytest.mark.parametrize("size", [10, 17 << 20], ids=["one-part", "several-parts"])
def test_what_is_given_up_while_it_is_written_changes_nothing(store: Store, size: int) -> None:
    store.put_bytes("key", data=b"before")

    def break_off() -> None:
        with store.writing("key") as sink:
            sink.write(bytes(size))
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert store.get_bytes("key") == b"before"
    assert [item.key for item in store.list()] == ["key"]


def test_an_absent_object_is_missing_input_and_leaves_no_file(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "target" / "file"
    with pytest.raises(MissingInput, match=r"below/here/absent.*there is no such"):
        store.get_file("absent", target=target)
    assert not target.exists()
    with pytest.raises(MissingInput):
        store.get_bytes("absent")
    assert list(store.list("absent")) == []


def test_one_object_is_fetched_by_its_uri(tmp_path: Path, s3_server: s3.S3Server) -> None:
    open_store("s3://ready/models", _credentials(s3_server)).put_bytes("weights.pt", data=b"weights")
    fetch_object("s3://ready/models/weights.pt", target=tmp_path / "w", credentials=_credentials(s3_server))
    fetch_object(f"file://{tmp_path}/w", target=tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == b"weights"


def test_a_download_that_breaks_off_is_started_again(tmp_path: Path) -> None:
    with _breaking_server(complete_from=3) as endpoint:
        store = open_store("s3://bucket/prefix", StoreCredentials(endpoint=endpoint))
        store.get_file("key", target=tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"x" * 100


def test_a_download_that_always_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    with _breaking_server(complete_from=99) as endpoint:
        store = open_store("s3://bucket/prefix", StoreCredentials(endpoint=endpoint))
        with pytest.raises(StorageUnreachable):
            store.get_file("key", target=tmp_path / "folder" / "target")
    assert list((tmp_path / "folder").iterdir()) == []


@contextmanager
def _breaking_server(*, complete_from: int) -> Iterator[str]:
    """A server that closes the connection within the body, until it is asked for the n-th time."""
    bodies = itertools.count(1)

    class Answers(Handler):
        def answer(self) -> None:
            if "location" in self.path:
                body, sent = b"<LocationConstraint/>", 99
            else:
                body, sent = b"x" * 100, 100 if next(bodies) >= complete_from else 10
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/xml")
            self.end_headers()
            self.wfile.write(body[:sent])

    with serve(Answers) as port:
        yield f"http://127.0.0.1:{port}"


def test_a_missing_bucket_is_named(s3_server: s3.S3Server) -> None:
    store = open_store("s3://no-such-bucket/prefix", _credentials(s3_server))
    for action in (
        lambda: store.put_bytes("a", data=b"1"),
        lambda: list(store.list()),
        lambda: store.get_bytes("a"),
    ):
        with pytest.raises(MissingInput, match=r"no bucket 'no-such-bucket'.*create it"):
            action()


@pytest.mark.parametrize(
    ("access_key", "secret_key"),
    [(s3.ACCESS_KEY, "wrong"), ("wrong", s3.SECRET_KEY), (s3.READER_ACCESS_KEY, s3.READER_SECRET_KEY)],
    ids=["wrong-secret", "unknown-key", "may-not-write"],
)
def test_refused_credentials_are_said_without_the_secret(
    s3_server: s3.S3Server, access_key: str, secret_key: str
) -> None:
    store = open_store(
        "s3://ready/prefix", _credentials(s3_server, access_key=access_key, secret_key=secret_key)
    )
    with pytest.raises(CredentialsRefused, match="check accessKey and secretKey") as caught:
        store.put_bytes("a", data=b"1")
    assert secret_key not in str(caught.value)
    assert caught.value.exit_code == 77


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_an_hour_wrong_is_told_and_may_pass(
    s3_server: s3.S3Server, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """It is no fault of the credentials: with them the worker is tried again, and its job does not fail."""
    told = minio.time.utcnow
    store = open_store("s3://ready/prefix", _credentials(s3_server))
    with monkeypatch.context() as shifted:
        shifted.setattr(minio.time, "utcnow", lambda: told() + timedelta(hours=hours))
        with pytest.raises(StorageUnreachable, match="check the time service of both"):
            store.put_bytes("key", data=b"x")
    store.put_bytes("key", data=b"x")


def test_a_server_that_does_not_answer_is_unreachable(
    monkeypatch: pytest.MonkeyPatch, s3_server: s3.S3Server
) -> None:
    monkeypatch.setattr(s3_store, "_RETRY", urllib3.Retry(total=2, backoff_factor=0))
    store = open_store("s3://ready/prefix", _credentials(s3_server, endpoint="http://127.0.0.1:9"))
    with pytest.raises(StorageUnreachable, match=r"http://127\.0\.0\.1:9: no answer"):
        store.put_bytes("a", data=b"1")


def test_tls_needs_the_authority_that_signed_the_certificate(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {certificate} -days 2 "
        "-subj /CN=localhost -addext subjectAltName=DNS:localhost",
        shell=True,
        check=True,
        capture_output=True,
    )
    with s3.run_s3_server(tmp_path / "server", certificate=certificate, key=key) as server:
        trusting = open_store(
            "s3://ready/x", _credentials(server, endpoint=server.tls_endpoint, ca=certificate.read_text())
        )
        trusting.put_bytes("a", data=b"1")
        assert trusting.get_bytes("a") == b"1"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(s3_store, "_RETRY", urllib3.Retry(total=1, backoff_factor=0))
            doubting = open_store("s3://ready/x", _credentials(server, endpoint=server.tls_endpoint))
            with pytest.raises(InvalidInput, match=r"certificate is not trusted.*'ca.crt'"):
                doubting.get_bytes("a")
