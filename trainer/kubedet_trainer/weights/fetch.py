"""A file of weights from the first of several addresses that has it, into a cache: once, whole, checked."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import urllib3

from kubedet_trainer.errors import (
    CredentialsRefused,
    InvalidInput,
    MissingInput,
    StorageUnreachable,
    TrainerError,
)
from kubedet_trainer.settings import StoreCredentials
from kubedet_trainer.storage.files import locked
from kubedet_trainer.storage.uris import fetch_object

_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")
"""The habit of torchvision and OpenMMLab: the SHA-256 of ``resnet50-0676ba61.pth`` starts with 0676ba61."""
_TIMEOUT = urllib3.Timeout(connect=10, read=60)
_RETRY = urllib3.Retry(total=3, backoff_factor=0.5, backoff_max=8, status_forcelist=(429, 500, 502, 503, 504))
_BODY_ATTEMPTS = 5
"""How often a body that breaks off is asked for again, from where it broke."""
_BODY_WAIT_SECONDS = 0.5
_CHUNK_BYTES = 1 << 20
_ENDINGS = (StorageUnreachable, InvalidInput, CredentialsRefused, MissingInput)
"""What several addresses that all fail end with: the first of these that one of them ended with."""

_log = logging.getLogger(__name__)


def fetch_weights(
    addresses: Sequence[str],
    *,
    sha256: str | None = None,
    cache: Path,
    credentials: StoreCredentials | None = None,
) -> Path:
    """The file at the first of `addresses` (s3, file, https, http) that has it, downloaded into `cache` once.

    Its hash is checked, by the digits in the file's name without `sha256`, if it has any. What another
    process is downloading is waited for; a download that broke off, here or in an earlier one, is continued.

    Raises:
        InvalidInput: an address is malformed, or the hash is another.
        MissingInput, CredentialsRefused, StorageUnreachable: as `storage.Store` does; names all addresses.
    """
    name = _name(addresses[0])
    in_name = _HASH_IN_NAME.search(name)
    expected = (sha256 or (in_name[1] if in_name else "")).lower()
    # A name with its hash says all; others may name different files at different addresses.
    key = "" if in_name else f"{hashlib.sha256(addresses[0].encode()).hexdigest()[:16]}-"
    target = cache / f"{key}{name}"
    failures: dict[str, TrainerError] = {}
    # A file of this machine costs little to copy, and may be another one since.
    may_differ = not expected and urlsplit(addresses[0]).scheme == "file"
    with locked(target):
        if target.exists() and not may_differ:
            _require_hash(target, expected, address=str(target))
            return target
        for address in addresses:
            try:
                _fetch(address, target=target, expected=expected, credentials=credentials)
            except _ENDINGS as error:
                _log.warning("%s", error)
                failures[address] = error
            else:
                return target
    raise _combine(failures)


def _name(address: str) -> str:
    if not (name := PurePosixPath(urlsplit(address).path).name):
        raise InvalidInput(f"pretrained: {address} must name a file")
    return name


def _combine(failures: dict[str, TrainerError]) -> TrainerError:
    errors = list(failures.values())
    if len(errors) == 1:
        return errors[0]
    kind = next(kind for kind in _ENDINGS if any(isinstance(error, kind) for error in errors))
    tried = "; ".join(str(error).removeprefix("pretrained: ") for error in errors)
    return kind(f"pretrained: none of {len(errors)} addresses has the file: {tried}")


def _fetch(address: str, *, target: Path, expected: str, credentials: StoreCredentials | None) -> None:
    if urlsplit(address).scheme in ("http", "https"):
        part = target.with_name(f".{target.name}.part")
        _download(address, part=part)
        _require_hash(part, expected, address=address)
        os.replace(part, target)
    else:
        fetch_object(address, target=target, credentials=credentials)
        _require_hash(target, expected, address=address)


def _require_hash(file: Path, expected: str, *, address: str) -> None:
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if not found.startswith(expected):
        file.unlink()
        raise InvalidInput(
            f"pretrained: {address} has SHA-256 {found}, must begin with {expected}; correct sha256 or file"
        )


def _download(url: str, *, part: Path) -> None:
    """Fill `part` with what `url` has, from its end on where it is the beginning of the same file."""
    with urllib3.PoolManager(timeout=_TIMEOUT, retries=_RETRY) as pool:
        for attempt in range(1, _BODY_ATTEMPTS + 1):
            try:
                _continue(pool, url, part=part)
            except urllib3.exceptions.HTTPError as error:
                is_broken_body = isinstance(
                    error, urllib3.exceptions.ProtocolError | urllib3.exceptions.ReadTimeoutError
                )
                if attempt == _BODY_ATTEMPTS or not is_broken_body:
                    raise StorageUnreachable(
                        f"pretrained: {url}: no answer ({type(error).__name__}); check the network, or give "
                        "weightsMirror or pretrained.storageUri an address inside it"
                    ) from error
                time.sleep(_BODY_WAIT_SECONDS)
            else:
                return


def _continue(pool: urllib3.PoolManager, url: str, *, part: Path) -> None:
    """Ask once for what `part` lacks and append it, or for everything where the file has changed since."""
    note = part.with_suffix(".json")
    done, validator = _begun(part, note, url=url)
    headers = {"Accept-Encoding": "identity"}
    if done:
        headers |= {"Range": f"bytes={done}-", "If-Range": validator}
    response = pool.request("GET", url, headers=headers, preload_content=False)
    try:
        if response.status == 416:  # the file is shorter than what is here
            part.unlink()
            raise urllib3.exceptions.ProtocolError(f"{url} refuses to continue at byte {done}")
        if response.status not in (200, 206):
            raise MissingInput(
                f"pretrained: {url} answers {response.status}; check it, or give weightsMirror or "
                "pretrained.storageUri"
            )
        etag = response.headers.get("ETag", "W/")
        validator = response.headers.get("Last-Modified", "") if etag.startswith("W/") else etag
        note.write_text(json.dumps({"url": url, "validator": validator}))
        with part.open("ab" if response.status == 206 else "wb") as file:
            for chunk in response.stream(_CHUNK_BYTES, decode_content=False):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    finally:
        response.close()  # also where the body was not read
    note.unlink()


def _begun(part: Path, note: Path, *, url: str) -> tuple[int, str]:
    """How many bytes of the file at `url` are in `part`, and what says that it is still the same file."""
    try:
        begun = json.loads(note.read_text())
        if begun["url"] == url and begun["validator"]:
            return part.stat().st_size, begun["validator"]
    except (OSError, ValueError, KeyError):
        pass  # nothing was begun, or nobody knows of what
    return 0, ""
