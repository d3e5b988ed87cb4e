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


@pytest.mark.parametrize("end", ["", ",", ", ,"])
def test_what_training_needs_is_downloaded_and_nothing_else(
    end: str, s3_server: s3.S3Server, bucket: str, tmp_path: Path
) -> None:
    annotations = f"annotations/instances_train2017.json{end}"
    root = prepared_root(settings(s3_server, bucket, train_annotations=annotations), tmp_path)
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


_ROBOFLOW = {
    "data.yaml": b"names: [bolt, nut]\ntrain: ../train/images\nval: ../valid/images\ntest: ../test/images\n",
    "train/images/1.jpg": b"first",
    "train/labels/1.txt": b"0 0.5 0.5 0.1 0.1",
    "train/images/2.jpg": b"without objects",
    "valid/images/3.jpg": b"third",
    "valid/labels/3.txt": b"1 0.5 0.5 0.1 0.1",
    "test/images/4.jpg": b"fourth",
    "test/labels/4.txt": b"1 0.5 0.5 0.1 0.1",
    "train/labels/9.txt": b"of no use",
    "train/images/notes.md": b"of no use",
    "README.roboflow.txt": b"of no use",
}
_LISTED = {
    "data.yaml": b"path: ../parts\nnames: {0: bolt}\ntrain: lists/train.txt\n"
    b"val: images/val\ntest: images/test\n",
    "lists/train.txt": b"./images/a/1.png\nimages/b/2.png\n",
    "lists/images/a/1.png": b"first",
    "lists/labels/a/1.txt": b"0 0.5 0.5 0.1 0.1",
    "images/b/2.png": b"second",
    "images/val/3.png": b"third",
    "images/b/9.png": b"of no use",
    "images/test/4.png": b"of no use",
}


@pytest.mark.parametrize("files", [_ROBOFLOW, _LISTED], ids=["folders", "lists"])
@pytest.mark.parametrize("split", ["test", ""], ids=["with test", "without test"])
def test_of_a_yolo_data_set_only_the_splits_are_downloaded(
    s3_server: s3.S3Server, tmp_path: Path, files: dict[str, bytes], split: str
) -> None:
    bucket = s3_server.make_bucket(f"yolo-{len(files)}-{split or 'none'}")
    for key, data in files.items():
        s3_server.client().put_object(bucket, f"coco/{key}", io.BytesIO(data), len(data))
    paths = dict.fromkeys(("train_annotations", "val_annotations"), "data.yaml")
    tests = {"test_annotations": "data.yaml"} if split else {}
    local = prepare.prepare_dataset(
        settings(s3_server, bucket, format="YOLO", **paths, **tests), tmp_path / "downloads"
    )
    found = content(local.train.images)
    of_test = {name for name in files if name.startswith(("test/", "images/test/"))}
    useless = {name for name, data in files.items() if data == b"of no use"} - of_test
    assert found.keys() == files.keys() - useless - (set() if split else of_test)
    assert all(files[name] == data for name, data in found.items())


def test_a_yolo_split_that_is_not_in_the_store_is_named(s3_server: s3.S3Server, tmp_path: Path) -> None:
    bucket = s3_server.make_bucket("yolo-incomplete")
    data = b"names: [bolt]\ntrain: images/train\nval: images/val\n"
    s3_server.client().put_object(bucket, "coco/data.yaml", io.BytesIO(data), len(data))
    paths = dict.fromkeys(("train_annotations", "val_annotations"), "data.yaml")
    with pytest.raises(
        MissingInput, match=r"data\.yaml: train: got 'images/train', must be a folder or a list"
    ):
        prepare.prepare_dataset(settings(s3_server, bucket, format="YOLO", **paths), tmp_path)


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
