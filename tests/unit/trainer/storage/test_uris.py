"""What the object store refuses before it connects, and what a folder does when it may not be written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kubedet_trainer.data import prepare, proposals
from kubedet_trainer.errors import InvalidInput, MissingInput, StorageUnreachable
from kubedet_trainer.settings import DatasetSettings, StoreCredentials
from kubedet_trainer.storage.uris import open_store


@pytest.mark.parametrize(
    "uri", ["pvc://claim/path", "file://host/path", "s3:///prefix", "/just/a/path", "https://host/object"]
)
def test_a_uri_of_another_form_is_refused_with_the_right_form(uri: str) -> None:
    with pytest.raises(InvalidInput, match=r"must be (s3://bucket|file:///)"):
        open_store(uri)


@pytest.mark.parametrize(
    "endpoint", ["minio:9000", "ftp://minio", "http://user:word@minio", "http://minio/path"]
)
def test_an_endpoint_must_be_a_plain_address(endpoint: str) -> None:
    with pytest.raises(InvalidInput, match="must be http://host:port or https://host:port"):
        open_store("s3://bucket", StoreCredentials(endpoint=endpoint))


def test_a_certificate_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"ca\.crt: must be certificates in PEM"):
        open_store("s3://bucket", StoreCredentials(endpoint="https://minio", ca="no certificate"))


def test_a_bucket_name_that_cannot_be_is_refused() -> None:
    store = open_store("s3://B/prefix", StoreCredentials(endpoint="http://127.0.0.1:9"))
    with pytest.raises(InvalidInput, match=r"s3://B/prefix/key at http://127\.0\.0\.1:9: .*bucket name"):
        store.put_bytes("key", data=b"")


def test_a_path_with_a_blank_is_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "with a blank"
    open_store(folder.as_uri()).put_bytes("key", data=b"1")
    assert (folder / "key").read_bytes() == b"1"


def test_a_key_may_not_leave_the_folder(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/store")
    with pytest.raises(InvalidInput, match="must stay below"):
        store.put_bytes("../outside", data=b"1")


def test_deleting_the_last_object_of_a_folder_removes_the_folder(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/store")
    store.put_bytes("a/b/key", data=b"1")
    store.delete(["a/b/key"])
    assert list((tmp_path / "store").iterdir()) == []


def test_a_full_disk_is_worth_a_retry_and_a_file_in_the_way_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(f"file://{tmp_path}/store")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageUnreachable, match="No space left on device"):
        store.put_bytes("key", data=b"1")
    (tmp_path / "store" / "name").write_text("")
    with pytest.raises(MissingInput):
        store.get_bytes("name/key")


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="file/key: a file is in its place, must be below a folder"):
        open_store(f"file://{tmp_path}/file").put_bytes("key", data=b"1")


@pytest.mark.parametrize("place", ["s3://bucket/run", "file:///run"])
@pytest.mark.parametrize("end", ["#1", "?x=1", "\n1", "\t1", "#", "/a#b/c"])
def test_a_uri_that_would_be_cut_short_is_refused(place: str, end: str) -> None:
    rule = r"must be a URI without \?, # and control characters"
    with pytest.raises(InvalidInput, match=rule):
        open_store(f"{place}{end}", StoreCredentials(endpoint="http://127.0.0.1:9"))


def test_a_data_set_and_proposals_are_never_read_from_a_uri_that_was_cut_short(tmp_path: Path) -> None:
    settings = DatasetSettings(uri=f"file://{tmp_path}#b", proposals_uri=f"file://{tmp_path}?b")
    with pytest.raises(InvalidInput, match="#b', must be a URI without"):
        prepare.prepare_dataset(settings, tmp_path)
    with pytest.raises(InvalidInput, match=r"b', must be a URI without .*; write a path, or %3F and %23"):
        proposals.prepare_proposals(settings, tmp_path, split="train")
