"""A trained detector's weights from wherever they lie: a file, a checkpoint, or a place of checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from kubedet_trainer.errors import InvalidInput, MissingInput
from kubedet_trainer.recipes import published_files
from kubedet_trainer.settings import StoreCredentials
from kubedet_trainer.storage.files import locked
from kubedet_trainer.storage.store import Store
from kubedet_trainer.storage.uris import open_store
from kubedet_trainer.training.manifest import (
    MANIFEST_FILE,
    Located,
    Manifest,
    fetch_state,
    parse_manifest,
    require_format,
    strip_state,
)
from kubedet_trainer.weights.fetch import fetch_weights
from kubedet_trainer.weights.load import Weights, read_weights

_PLACES = ("step-", "checkpoints/step-")
"""Where checkpoints begin below a URI: those of a run, and those of a folder that `kubedet train` wrote."""
_SUFFIXES = frozenset({".pth", ".pt"})

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Weights on this machine and what is known of the detector that they are of."""

    name: str
    """The name of the file, or the URI of the checkpoint."""
    uri: str
    """Of the file, also where a mirror had it, or of the checkpoint's state."""
    weights: Weights
    manifest: Manifest | None
    """Of the checkpoint; None where the weights are a file of their own."""

    @property
    def recipe(self) -> Mapping[str, Any] | None:
        """The whole recipe that they were trained by; None where they do not say it."""
        found = self.weights.meta.get("recipe") if self.manifest is None else self.manifest.recipe
        return found if isinstance(found, Mapping) and isinstance(found.get("name"), str) else None


def read_source(
    uri: str,
    *,
    cache: Path,
    sha256: str | None = None,
    mirror: str | None = None,
    credentials: StoreCredentials | None = None,
) -> Source:
    """The weights at `uri`: of a file, of one checkpoint, or of the newest checkpoint below it.

    Args:
        uri: file, s3, http or https; the last two name a file.
        cache: folder that keeps what was downloaded.
        sha256: of the file or of the checkpoint's state, in hexadecimal.
        mirror: base address that published weights are fetched from instead of their publisher's.
        credentials: of the object store.

    Raises:
        MissingInput: there is neither, or no checkpoint is intact.
        InvalidInput: the file has another hash, or is no file of tensors alone.
        CredentialsRefused, StorageUnreachable: from the store.
    """
    if not _is_file(uri):
        store, keys = _find_manifests(uri, credentials)
        if keys:
            return _read_newest(store, keys, sha256=sha256, cache=cache, credentials=credentials)
    addresses = published_files.addresses(uri, mirror=mirror)
    file = _fetch(addresses, sha256=sha256, cache=cache, credentials=credentials)
    name = PurePosixPath(unquote(urlsplit(uri).path)).name
    return Source(name=name, uri=uri, weights=read_weights(file, called=uri), manifest=None)


def _find_manifests(uri: str, credentials: StoreCredentials | None) -> tuple[Store, list[str]]:
    """A store and its keys of manifests, the newest first: that of `uri` itself, else those below it."""
    base = strip_state(uri.rstrip("/"))
    store = open_store(base, credentials)
    if store.exists(MANIFEST_FILE):
        return store, [MANIFEST_FILE]
    for place in _PLACES:
        keys = [item.key for item in store.list(place) if item.key.endswith(f"/{MANIFEST_FILE}")]
        if keys:
            return store, sorted(keys, reverse=True)
    return store, []


def _is_file(uri: str) -> bool:
    """Whether `uri` names a file of weights of its own."""
    parts = urlsplit(uri)
    is_state = strip_state(uri) != uri
    return parts.scheme in ("http", "https") or (
        not is_state and PurePosixPath(parts.path).suffix in _SUFFIXES
    )


def _read_newest(
    store: Store,
    keys: Sequence[str],
    *,
    sha256: str | None,
    cache: Path,
    credentials: StoreCredentials | None,
) -> Source:
    """The first checkpoint that is intact; a warning names each that is not.

    Raises:
        InvalidInput: it has another hash than `sha256`, or none is intact and the first has no manifest.
        MissingInput: none is intact.
    """
    failures: list[InvalidInput | MissingInput] = []
    for key in keys:
        if failures:
            _log.warning("%s; trying another checkpoint", failures[-1])
        if (manifest := parse_manifest(store.get_bytes(key))) is None:
            failures.append(
                InvalidInput(
                    f"checkpoint: {store.uri}/{key} is not a manifest, must be one that a training wrote"
                )
            )
            continue
        located = Located(uri=f"{store.uri}/{key}".removesuffix(f"/{MANIFEST_FILE}"), manifest=manifest)
        if sha256 is not None and manifest.sha256 != sha256.lower():
            raise InvalidInput(
                f"pretrained: {located.state_uri} has SHA-256 {manifest.sha256}, must have "
                f"{sha256}; correct sha256 or file"
            )
        try:
            return _read_checkpoint(located, cache=cache, credentials=credentials)
        except MissingInput as error:
            failures.append(error)
    raise failures[0]


def _read_checkpoint(located: Located, *, cache: Path, credentials: StoreCredentials | None) -> Source:
    require_format(located)
    target = cache / f"checkpoint-{located.manifest.sha256[:16]}.pt"
    with locked(target):
        if not target.exists():
            fetch_state(located, target=target, credentials=credentials)
    weights = replace(read_weights(target, called=located.uri), classes=tuple(located.manifest.classes))
    return Source(name=located.uri, uri=located.state_uri, weights=weights, manifest=located.manifest)


def _fetch(
    addresses: Sequence[str], *, sha256: str | None, cache: Path, credentials: StoreCredentials | None
) -> Path:
    try:
        return fetch_weights(addresses, sha256=sha256, cache=cache, credentials=credentials)
    except MissingInput as error:
        if urlsplit(addresses[0]).scheme in ("http", "https"):
            raise
        raise MissingInput(
            f"pretrained: nothing to load at {addresses[0]}, must be a file of weights, a checkpoint, or a "
            f"folder or prefix with checkpoints ({error})"
        ) from error
