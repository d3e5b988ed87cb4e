"""The manifest of a checkpoint: what it holds, and how a reader knows that it is intact.

A manifest may have been cut short, damaged or written by anybody. Reading one never raises anything of its
own: what is not sound is no manifest.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from kubedet_trainer.errors import InvalidInput, MissingInput
from kubedet_trainer.settings import StoreCredentials
from kubedet_trainer.storage.uris import open_store

MANIFEST_FILE = "manifest.json"
STATE_FILE = "state.pt"
_STATE = re.compile(r"state(-[0-9a-f]{8})?\.pt")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FORMAT_VERSION = 1
_DOWNLOADS = 2


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of a checkpoint, and how to verify that it is intact."""

    iteration: int
    epoch: int
    """Epochs finished."""
    sizeBytes: int  # noqa: N815
    sha256: str
    """Of the state."""
    recipe: Mapping[str, Any]
    """The whole recipe, as JSON."""
    classes: list[str]
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of the evaluation at this iteration; empty where there was none."""
    job: str = ""
    """Name of the job that trained it."""
    attempt: int = 0
    worldSize: int = 1  # noqa: N815
    time: str = ""
    """UTC, RFC 3339."""
    formatVersion: int = _FORMAT_VERSION  # noqa: N815
    stateFile: str = STATE_FILE  # noqa: N815
    """The object with the state. It has another name than usual where it replaces a checkpoint."""

    def to_json(self) -> bytes:
        """What `parse_manifest` reads. Version 0.1.0 reads it too, unless it replaces a checkpoint."""
        document = asdict(self)
        if self.stateFile == STATE_FILE:
            del document["stateFile"]
        return json.dumps(document, indent=2).encode()


_FIELDS = frozenset(field.name for field in fields(Manifest))


@dataclass(frozen=True, kw_only=True)
class Located:
    """A checkpoint with a sound manifest."""

    uri: str
    """Of its prefix."""
    manifest: Manifest

    @property
    def state_uri(self) -> str:
        """Of its state."""
        return f"{self.uri}/{self.manifest.stateFile}"


def parse_manifest(data: bytes) -> Manifest | None:
    """The manifest that `data` is; None where it is none, whatever it is instead.

    What a newer version has added is passed over. It has another `formatVersion` if that cannot be.
    """
    try:
        document = json.loads(data)
        manifest = Manifest(**{name: document[name] for name in _FIELDS & document.keys()})
    except (ValueError, TypeError, AttributeError, RecursionError, MemoryError):
        return None
    return manifest if _is_sound(manifest) else None


def require_format(located: Located) -> None:
    """Refuse a checkpoint of a format that only a newer version reads.

    Raises:
        InvalidInput: it is of such a format.
    """
    if located.manifest.formatVersion > _FORMAT_VERSION:
        raise InvalidInput(
            f"{located.uri}/{MANIFEST_FILE}: formatVersion: got {located.manifest.formatVersion}, must be "
            f"{_FORMAT_VERSION}: a newer version of kubedet wrote this checkpoint; use its trainer image, or "
            "give checkpoint.storageUri a prefix of its own"
        )


def require_same_model(located: Located, *, recipe: Mapping[str, Any], classes: list[str]) -> None:
    """Refuse a checkpoint that a run of `recipe` and `classes` cannot continue from.

    Raises:
        InvalidInput: it is of another model or other classes, or of a format that only a newer version reads.
    """
    require_format(located)
    theirs = located.manifest
    for name, differences in (
        ("recipe's model", _differences(theirs.recipe.get("model"), recipe.get("model"), "model")),
        ("classes", _differences(theirs.classes, classes, "classes")),
    ):
        if difference := next(differences, None):
            raise InvalidInput(
                f"{located.uri}: its {name} differ from this run's ({difference}); "
                "give checkpoint.storageUri a prefix of its own, or set checkpoint.resume to Never"
            )


def strip_state(uri: str) -> str:
    """`uri` without the name of a state at its end: results name the state itself."""
    parent, _, name = uri.rpartition("/")
    return parent if _STATE.fullmatch(name) else uri


def fetch_state(located: Located, *, target: Path, credentials: StoreCredentials | None) -> None:
    """Write the state of `located` to `target` and verify it; download it again if it came damaged.

    Raises:
        MissingInput: it is not what its manifest says.
        CredentialsRefused, StorageUnreachable: from the store.
    """
    store = open_store(located.uri, credentials)
    for _ in range(_DOWNLOADS):
        store.get_file(located.manifest.stateFile, target=target)
        if is_intact(target, located.manifest):
            return
    target.unlink(missing_ok=True)
    raise MissingInput(f"{located.state_uri}: is damaged: it does not match its manifest")


def is_intact(file: Path, manifest: Manifest) -> bool:
    """Whether `file` can be read and is exactly the state of `manifest`."""
    try:
        if file.stat().st_size != manifest.sizeBytes:
            return False
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == manifest.sha256
    except OSError:
        return False


def _is_sound(manifest: Manifest) -> bool:
    """Whether the fields have the types and bounds that they say."""
    counts = (
        *(manifest.iteration, manifest.epoch, manifest.sizeBytes, manifest.attempt, manifest.worldSize),
        manifest.formatVersion,
    )
    texts = (manifest.sha256, manifest.time, manifest.job, manifest.stateFile)
    return (
        all(type(count) is int and 0 <= count < 2**63 for count in counts)
        and manifest.formatVersion >= _FORMAT_VERSION
        and all(isinstance(text, str) for text in texts)
        and _SHA256.fullmatch(manifest.sha256) is not None
        and _STATE.fullmatch(manifest.stateFile) is not None
        and isinstance(manifest.recipe, dict)
        and isinstance(manifest.recipe.get("model"), dict)
        and isinstance(manifest.classes, list)
        and all(isinstance(name, str) for name in manifest.classes)
        and isinstance(manifest.metrics, dict)
        and all(_is_figure(value) for value in manifest.metrics.values())
    )


def _is_figure(value: object) -> bool:
    """Whether a metric is a number that fits into a float; NaN is one, which an evaluation may give."""
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


def _differences(theirs: Any, ours: Any, path: str) -> Iterator[str]:
    """What a checkpoint's recipe says otherwise than this run's.

    An option that it lacks is newer than the version that wrote it, which did what is the default now.
    """
    if not isinstance(theirs, Mapping) or not isinstance(ours, Mapping):
        if theirs != ours:
            yield f"{path}: {_shorten(theirs)} there, {_shorten(ours)} here"
        return
    for name, value in theirs.items():
        if name in ours:
            yield from _differences(value, ours[name], f"{path}.{name}")
        else:
            yield f"{path}.{name}: {_shorten(value)} there, this version of kubedet has no such option"


def _shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
