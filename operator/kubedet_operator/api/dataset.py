"""Where a DetectionJob finds what it learns from: the data set, proposals, and the forms of their URIs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kubedet_operator.api.fields import Pattern, bounded

_DNS_NAME = Pattern(regex=r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?", meaning="the name of an object (lower case)")
_PATH = r"[^?#\x00-\x1f\x7f]"
"""A character of a path in a URI."""
BUCKET = rf"s3://[a-z0-9][-.a-z0-9]+(/{_PATH}*)?"
CLAIM = rf"pvc://[a-z0-9][-.a-z0-9]*(/{_PATH}*)?"
FILE = rf"file:///{_PATH}+"
_DATASET_URI = Pattern(
    regex=rf"({BUCKET}|{CLAIM}|{FILE}|synthetic://shapes([?][a-zA-Z0-9_=&.-]*)?)",
    meaning="s3://bucket/prefix, pvc://claim/path, file:///path or synthetic://shapes",
)
STORE_URI = Pattern(
    regex=rf"({BUCKET}|{CLAIM}|{FILE})", meaning="s3://bucket/prefix, pvc://claim/path or file:///path"
)
_HOST = r"([a-zA-Z0-9]([-._a-zA-Z0-9]*[a-zA-Z0-9])?|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?"
"""With its port. A user or password would stand in plain text in pods and logs."""
WEIGHTS_URI = Pattern(
    regex=rf"({BUCKET}|{CLAIM}|{FILE}|https?://{_HOST}(/{_PATH}*)?)",
    meaning="s3://bucket/file, pvc://claim/file, file:///file or https://host/file without a user",
)
MIRROR_URI = Pattern(
    regex=WEIGHTS_URI.regex,
    meaning="https://host/path without a user, s3://bucket/prefix, pvc://claim/path or file:///path",
)
ENDPOINT = Pattern(
    regex=rf"https?://{_HOST}/?",
    meaning="https://host:port or http://host:port without a user",
)
_RELATIVE_PATH = Pattern(
    regex=r"[^/\x00-\x1f\x7f][^\x00-\x1f\x7f]*", meaning="a path relative to the data set's storageUri"
)


@dataclass(frozen=True, kw_only=True)
class SecretReference:
    """A Secret in the job's namespace. Only the worker's kubelet reads it; the operator never does."""

    name: str = bounded(min_length=1, max_length=253, pattern=_DNS_NAME)
    """Name of the Secret."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images and annotations of one split, below the data set's storageUri. Default: the published paths."""

    images: str | None = bounded(default=None, min_length=1, pattern=_RELATIVE_PATH)
    """Folder with the images."""
    annotations: str | None = bounded(default=None, min_length=1, pattern=_RELATIVE_PATH)
    """COCO: the annotation file, or several separated by commas. VOC: the lists of image names, separated by
    commas. YOLO: the data.yaml."""


@dataclass(frozen=True, kw_only=True)
class TestSplit:
    """Paths of further images and their annotations, relative to storageUri."""

    images: str | None = bounded(default=None, min_length=1, pattern=_RELATIVE_PATH)
    """Folder with the images. Default: storageUri itself."""
    annotations: str = bounded(min_length=1, pattern=_RELATIVE_PATH)
    """The annotations, named as those of the other splits."""


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """Precomputed proposals, which only Fast R-CNN needs. `kubedet propose` writes them."""

    storageUri: str | None = bounded(default=None, min_length=1, pattern=STORE_URI)
    """Folder with both proposal files: s3://, pvc:// or file://. Excludes fromJob."""
    fromJob: str | None = bounded(default=None, min_length=1, max_length=48, pattern=_DNS_NAME)
    """A job of the same namespace with writeProposals. This job waits until it is complete, and takes its
    proposals. Excludes storageUri."""
    endpoint: str | None = bounded(default=None, pattern=ENDPOINT)
    """Address of the object store. Default: the key endpoint of secretRef, else AWS; without secretRef the
    data set's. With fromJob: that job's checkpoint.endpoint."""
    secretRef: SecretReference | None = None
    """Secret to read them with. Default: the data set's. With fromJob: that job's checkpoint.secretRef."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The data to train and validate on. Immutable once a worker has trained."""

    storageUri: str = bounded(min_length=1, pattern=_DATASET_URI)
    """Location of the data set: s3://bucket/prefix, pvc://claim/path, file:///path (a path in the worker's
    container) or synthetic://shapes (generated). `kubedet run` also takes a path such as ./parts."""
    format: Literal["COCO", "VOC", "YOLO"] = "COCO"
    """Format of the annotations. COCO: JSON files for each split. VOC: PASCAL VOC's XML files and lists.
    YOLO: a data.yaml and text files."""
    train: Split = Split()
    """Split to train on. Default: train2017 of COCO, trainval of VOC 2007 and 2012."""
    val: Split = Split()
    """Split to evaluate on. Default: val2017 of COCO, test of VOC 2007."""
    validate: bool = True
    """Whether there is a split to evaluate on. Without one the job has no average precision."""
    test: TestSplit | None = None
    """Split to evaluate the final weights on, once. Default: none."""
    proposals: Proposals | None = None
    """Precomputed proposals, for Fast R-CNN."""
    endpoint: str | None = bounded(default=None, pattern=ENDPOINT)
    """Address of the object store. Default: the key endpoint of the Secret, else AWS."""
    secretRef: SecretReference | None = None
    """Secret with the keys accessKey and secretKey, and optionally endpoint and ca.crt."""
