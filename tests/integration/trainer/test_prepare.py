"""Downloading a data set from a real object store."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

import s3
from kubedet_trainer.data import prepare
from kubedet_trainer.errors import CredentialsRefused, MissingInput
from kubedet_trainer.settings import DatasetSettings, StoreCredentials

_FILES = {
    "train2017/1.jpg": b"first",
    "train2017/deep/2.jpg": b"second",
    "train2017extra/9.jpg": b"of no use",
    "val2017/3.jpg": b"third",
    "test2017/4.jpg": b"of no use",
    "annotations/instances_train2017.json": b"{}",
    "annotations/instances_val2017.json": b"{} ",
    "annotations/instances_val2017.json.backup": b"of no use",
}


@pytest.fixture(scope="module")
def bucket(s3_server: s3.S3Server) -> str:
    name = s3_server.make_bucket("datasets")
    for key, data in _FILES.items():
        s3_server.client().put_object(name, f"coco/{key}", io.BytesIO(data), len(data))
    return name


def settings(server: s3.S3Server, bucket: str, **more: Any) -> DatasetSettings:
    credentials = StoreCredentials(
        endpoint=server.endpoint, access_key=s3.ACCESS_KEY, secret_key=more.pop("secret_key", s3.SECRET_KEY)
    )
    return DatasetSettings(uri=f"s3://{bucket}/coco", credentials=credentials, **more)


def prepared_root(settings: DatasetSettings, directory: Path) -> Path:
    """The folder of a data set whose paths are the default ones."""
    return prepare.prepare_dataset(settings, directory).train.images.parent


def content(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def test_what_training_needs_is_downloaded_and_nothing_else(
    s3_server: s3.S3Server, bucket: str, tmp_path: Path
) -> None:
    root = prepared_root(settings(s3_server, bucket), tmp_path)
    assert content(root) == {key: data for key, data in _FILES.items() if data != b"of no use"}


def test_image_sets_are_downloaded_with_what_lies_beside_them(s3_server: s3.S3Server, tmp_path: Path) -> None:
    bucket = s3_server.make_bucket("voc-datasets")
    lists = "VOC2007/ImageSets/Main/trainval.txt", "VOC2007/ImageSets/Main/test.txt"
    wanted = {
        **dict.fromkeys(lists, b""),
        "VOC2007/Annotations/1.xml": b"<annotation/>",
        "VOC2007/JPEGImages/1.jpg": b"first",
    }
    useless = {"VOC2007/ImageSets/Main/train.txt": b"", "VOC2007/SegmentationClass/1.png": b"of no use"}
    for key, data in (wanted | useless).items():
        s3_server.client().put_object(bucket, f"coco/{key}", io.BytesIO(data), len(data))
    paths = dict(zip(("train_annotations", "val_annotations"), lists, strict=True))
    local = prepare.prepare_dataset(settings(s3_server, bucket, format="VOC", **paths), tmp_path)
    assert content(local.train.images) == wanted


def test_an_interrupted_download_goes_on_with_what_is_missing(
    s3_server: s3.S3Server, bucket: str, tmp_path: Path
) -> None:
    root = prepared_root(settings(s3_server, bucket), tmp_path)
    whole = content(root)
    (tmp_path / f"{root.name}.complete").unlink()
    (root / "train2017/1.jpg").unlink()
    (root / "val2017/3.jpg").write_bytes(b"cut")
    kept = (root / "train2017/deep/2.jpg").stat().st_mtime_ns
    assert content(prepared_root(settings(s3_server, bucket), tmp_path)) == whole
    assert (root / "train2017/deep/2.jpg").stat().st_mtime_ns == kept


def test_a_complete_download_needs_no_store(s3_server: s3.S3Server, bucket: str, tmp_path: Path) -> None:
    root = prepared_root(settings(s3_server, bucket), tmp_path)
    refused = settings(s3_server, bucket, secret_key="wrong")
    assert prepared_root(refused, tmp_path) == root


def test_an_absent_part_is_missing_input(s3_server: s3.S3Server, bucket: str, tmp_path: Path) -> None:
    wanted = settings(s3_server, bucket, val_images="val2014")
    with pytest.raises(MissingInput, match=r"s3://datasets/coco/val2014/ does not exist"):
        prepared_root(wanted, tmp_path)


def test_wrong_credentials_are_refused(s3_server: s3.S3Server, bucket: str, tmp_path: Path) -> None:
    with pytest.raises(CredentialsRefused):
        prepared_root(settings(s3_server, bucket, secret_key="wrong"), tmp_path)
