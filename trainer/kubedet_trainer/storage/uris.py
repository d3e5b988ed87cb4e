"""From a URI to the store that it names: ``file://`` is a folder, ``s3://`` a prefix of a bucket.

Every operation of a store either happens wholly or raises one of three errors that say what to do: the store
refused the credentials, the object or bucket is not there, or the store does not answer despite retries. No
secret is ever part of a message. Imports no torch: the launcher downloads data sets with it.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.settings import StoreCredentials
from kubedet_trainer.storage.folder import decode_path, open_folder
from kubedet_trainer.storage.s3 import open_prefix
from kubedet_trainer.storage.store import Store

_NOT_PLAIN = re.compile(r"[?#\x00-\x1f\x7f]")


def open_store(uri: str, credentials: StoreCredentials | None = None) -> Store:
    """The store at `uri`; no connection is made yet.

    Raises:
        InvalidInput: the URI, the endpoint or the authority's certificate is malformed.
    """
    require_plain(uri)
    scheme = urlsplit(uri).scheme
    if scheme == "file":
        return open_folder(uri)
    if scheme == "s3":
        return open_prefix(uri, credentials or StoreCredentials())
    raise InvalidInput(f"{uri}: got scheme '{scheme}', must be s3://bucket/prefix or file:///path")


def require_plain(uri: str) -> None:
    """Refuse what would be cut off or dropped in silence when a URI is parsed, as jobs do at admission.

    Raises:
        InvalidInput: the URI has a question mark, a hash sign or a control character.
    """
    if _NOT_PLAIN.search(uri):
        remedy = "; write a path, or %3F and %23" if uri.startswith("file:") else ""
        raise InvalidInput(f"got {uri!r}, must be a URI without ?, # and control characters{remedy}")


def fetch_object(uri: str, *, target: Path, credentials: StoreCredentials | None = None) -> None:
    """Write the one object that `uri` names to `target`.

    Raises:
        InvalidInput: the URI is malformed or names no object.
    """
    require_plain(uri)
    parent, _, key = uri.rpartition("/")
    if not key or parent.endswith(("/", ":")):
        raise InvalidInput(f"{uri}: must name one object, s3://bucket/path/name or file:///path/name")
    key = decode_path(key) if uri.startswith("file:") else key  # keys of S3 are written as they are
    open_store(parent, credentials).get_file(key, target=target)
