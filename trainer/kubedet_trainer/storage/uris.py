"""From a URI to the store that it names: ``file://`` is a folder, ``s3://`` a prefix of a bucket.

Every operation of a store either happens wholly or raises one of three errors that say what to do: the store
refused the credentials, the object or bucket is not there, or the store does not answer despite retries. No
secret is ever part of a message. Imports no torch: the launcher downloads data sets with it.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.settings import StoreCredentials
from kubedet_trainer.storage.folder import decode_path, open_folder
from kubedet_trainer.storage.s3 import open_prefix
from kubedet_trainer.storage.store import Store


def open_store(uri: str, credentials: StoreCredentials | None = None) -> Store:
    """The store at `uri`; no connection is made yet.

    Raises:
        InvalidInput: the URI, the endpoint or the authority's certificate is malformed.
    """
    scheme = urlsplit(uri).scheme
    if scheme == "file":
        return open_folder(uri)
    if scheme == "s3":
        return open_prefix(uri, credentials or StoreCredentials())
    raise InvalidInput(f"{uri}: got scheme '{scheme}', must be s3://bucket/prefix or file:///path")


def fetch_object(uri: str, *, target: Path, credentials: StoreCredentials | None = None) -> None:
    """Write the one object that `uri` names to `target`.

    Raises:
        InvalidInput: the URI is malformed or names no object.
    """
    parent, _, key = uri.rpartition("/")
    if not key or parent.endswith(("/", ":")):
        raise InvalidInput(f"{uri}: must name one object, s3://bucket/path/name or file:///path/name")
    key = decode_path(key) if uri.startswith("file:") else key  # keys of S3 are written as they are
    open_store(parent, credentials).get_file(key, target=target)
