"""Durable training state: written whole or not at all, verified before use, never pruned to nothing.

A checkpoint is a prefix ``step-<iteration>/`` of the store with ``state.pt`` and ``manifest.json``. The
manifest is written last and carries the size and the SHA-256 of the state; a prefix without a valid manifest
does not exist. Taking a snapshot (fast, the step waits for it) and writing it (slow) are two calls.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from kubedet_trainer.contract import CheckpointStatus
from kubedet_trainer.contract.nearest import did_you_mean
from kubedet_trainer.contract.times import format_now
from kubedet_trainer.errors import InvalidInput, MissingInput
from kubedet_trainer.evaluation.scores import rank
from kubedet_trainer.settings import CheckpointSettings, StoreCredentials
from kubedet_trainer.storage.uris import open_store
from kubedet_trainer.training.state import TrainState, copy_to_host

MANIFEST_FILE = "manifest.json"
STATE_FILE = "state.pt"
_PROBE = "write-test"

_FORMAT_VERSION = 1
_OBJECT = re.compile(r"step-(\d{8,})/")
_MANIFEST = re.compile(rf"step-(\d{{8,}})/{re.escape(MANIFEST_FILE)}")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of a checkpoint, and how to verify that it is intact."""

    iteration: int
    epoch: int
    """Epochs finished."""
    sizeBytes: int  # noqa: N815
    sha256: str
    """Of `STATE_FILE`."""
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


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A state in host memory that no later step changes."""

    iteration: int
    epoch: int
    metrics: Mapping[str, float]
    state: Mapping[str, Any]
    stall_seconds: float
    """How long taking it kept training waiting."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What is the same for all checkpoints of a process."""

    recipe: Mapping[str, Any]
    classes: list[str]
    job: str = ""
    attempt: int = 0
    world_size: int = 1


@dataclass(frozen=True, kw_only=True)
class Located:
    """A checkpoint that was found intact."""

    uri: str
    """Of its prefix."""
    manifest: Manifest


def take_snapshot(state: TrainState, *, epoch: int, metrics: Mapping[str, float]) -> Snapshot:
    """Copy `state` to host memory; the copy is complete when this returns."""
    started = time.perf_counter()
    copied = copy_to_host(state.state_dict())
    return Snapshot(
        iteration=state.iteration,
        epoch=epoch,
        metrics=dict(metrics),
        state=copied,
        stall_seconds=time.perf_counter() - started,
    )


class Checkpointer:
    """Saves, finds and prunes the checkpoints below one URI. Only rank 0 saves.

    All methods raise what `storage.Store` raises.
    """

    def __init__(self, settings: CheckpointSettings, *, origin: Origin, scratch: Path) -> None:
        self._settings = settings
        self._origin = origin
        self._scratch = scratch
        self._store = open_store(settings.uri, settings.credentials)
        self._known: dict[int, Manifest | None] = {}
        """Manifests read or written before, by iteration; None: there is one that nobody can read."""

    def save(self, snapshot: Snapshot) -> CheckpointStatus:
        """Write and commit `snapshot`, then delete what `keepLast` and `keepBest` do not keep."""
        started = time.perf_counter()
        prefix = _prefix(snapshot.iteration)
        self._scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._scratch, prefix="save-") as folder:
            file = Path(folder, STATE_FILE)
            torch.save(dict(snapshot.state), file)
            size, digest = file.stat().st_size, _sha256(file)
            # A checkpoint of an earlier run may lie here; its manifest must not vouch for the new state.
            self._store.delete([f"{prefix}/{MANIFEST_FILE}"])
            self._store.put_file(f"{prefix}/{STATE_FILE}", source=file)
        manifest = Manifest(
            iteration=snapshot.iteration,
            epoch=snapshot.epoch,
            metrics=snapshot.metrics,
            sizeBytes=size,
            sha256=digest,
            recipe=self._origin.recipe,
            classes=self._origin.classes,
            job=self._origin.job,
            attempt=self._origin.attempt,
            worldSize=self._origin.world_size,
            time=format_now(),
        )
        self._commit(manifest)
        self._prune(newest=snapshot.iteration)
        seconds = time.perf_counter() - started
        return CheckpointStatus(
            latest=f"{self._store.uri}/{prefix}",
            iteration=snapshot.iteration,
            time=manifest.time,
            sizeBytes=size,
            saveSeconds=round(seconds, 3),
            stallSeconds=round(snapshot.stall_seconds + seconds, 3),  # nothing is written in the background
        )

    def require_writable(self) -> None:
        """Write and delete a small object: what would fail at the first save shall fail now."""
        self._store.put_bytes(_PROBE, data=b"may be deleted")
        self._store.delete([_PROBE])

    def state_uri(self, iteration: int) -> str:
        """Where the state of one of this run's checkpoints lies."""
        return f"{self._store.uri}/{_prefix(iteration)}/{STATE_FILE}"

    def add_metrics(self, iteration: int, *, metrics: Mapping[str, float]) -> None:
        """Note in a committed checkpoint what an evaluation of its weights gave, then prune by it."""
        metric = self._settings.keep_best_metric
        if metric is not None and metric not in metrics:
            _log.warning(
                "checkpoint.keepBest.metric: got '%s', must be one of %s.%s",
                metric,
                ", ".join(metrics),
                did_you_mean(metric, metrics),
            )
        manifest = self._read(iteration)
        if manifest is not None:
            self._commit(replace(manifest, metrics=dict(metrics)))
            self._prune(newest=iteration)

    def fetch(self, *, target: Path) -> Located | None:
        """Write the newest intact state to `target`, as `resume` asks; None: start from scratch.

        ``Auto`` looks below the run's own URI. The URI of a checkpoint elsewhere starts a run that has no
        checkpoint of its own yet; a URI below the run's own goes back to exactly that one.

        Raises:
            MissingInput: `resume` names a checkpoint that is not there or not intact.
            InvalidInput: the checkpoint is of another model or other classes.
        """
        resume = self._settings.resume.rstrip("/")
        if resume == "Never":
            return None
        goes_back = resume.startswith(f"{self._store.uri}/")
        if not goes_back and (own := self._fetch_newest(target=target)) is not None:
            return own
        if resume == "Auto":
            return None
        store = open_store(resume, self._settings.credentials)
        manifest = parse_manifest(store.get_bytes(MANIFEST_FILE))
        if manifest is None:
            raise MissingInput(
                f"checkpoint.resume: {resume}/{MANIFEST_FILE} is not the manifest of a checkpoint"
            )
        located = Located(uri=resume, manifest=manifest)
        self.download(located, target=target)
        return located

    def download(self, located: Located, *, target: Path) -> None:
        """Write the state of `located` to `target` and verify it.

        Raises:
            MissingInput: it is not what its manifest says.
            InvalidInput: it is of another model or other classes.
        """
        self._require_same_model(located)
        fetch_state(located, target=target, credentials=self._settings.credentials)

    def _fetch_newest(self, *, target: Path) -> Located | None:
        return self.fetch_first(sorted(self._committed(), reverse=True), target=target)

    def fetch_first(self, iterations: Sequence[int], *, target: Path) -> Located | None:
        """Write the first of this run's checkpoints that is intact to `target`; None: there is none.

        Raises:
            InvalidInput: the checkpoint is of another model or other classes.
        """
        for iteration in iterations:
            uri = f"{self._store.uri}/{_prefix(iteration)}"
            if (manifest := self._read(iteration)) is None:
                _log.warning("%s: its manifest cannot be read; trying another checkpoint", uri)
                continue
            located = Located(uri=uri, manifest=manifest)
            try:
                self.download(located, target=target)
            except MissingInput as error:
                _log.warning("%s; trying another checkpoint", error)
                continue
            return located
        return None

    def _require_same_model(self, located: Located) -> None:
        theirs, ours = located.manifest, self._origin
        for name, got, wanted in (
            ("recipe's model", theirs.recipe.get("model"), ours.recipe.get("model")),
            ("classes", theirs.classes, ours.classes),
        ):
            if got != wanted:
                raise InvalidInput(
                    f"{located.uri}: its {name} differ from this run's; "
                    "give checkpoint.storageUri a prefix of its own, or set checkpoint.resume to Never"
                )

    def _committed(self) -> list[int]:
        return [
            int(match[1]) for item in self._store.list("step-") if (match := _MANIFEST.fullmatch(item.key))
        ]

    def _read(self, iteration: int) -> Manifest | None:
        if iteration not in self._known:
            try:
                data = self._store.get_bytes(f"{_prefix(iteration)}/{MANIFEST_FILE}")
            except MissingInput:
                return None
            self._known[iteration] = parse_manifest(data)
        return self._known[iteration]

    def _commit(self, manifest: Manifest) -> None:
        data = json.dumps(asdict(manifest), indent=2).encode()
        self._store.put_bytes(f"{_prefix(manifest.iteration)}/{MANIFEST_FILE}", data=data)
        self._known[manifest.iteration] = manifest

    def _prune(self, *, newest: int) -> None:
        """Delete what need not be kept: manifests first, so that nobody reads what is half gone.

        What lies beyond `newest` is another run's and is left alone.
        """
        found: dict[int, list[str]] = {}
        for item in self._store.list("step-"):
            if (match := _OBJECT.match(item.key)) and int(match[1]) <= newest:
                found.setdefault(int(match[1]), []).append(item.key)
        kept = self._kept(sorted(found, reverse=True))
        for iteration in found.keys() - kept:
            self._store.delete(sorted(found[iteration], key=lambda key: not key.endswith(MANIFEST_FILE)))
            self._known.pop(iteration, None)

    def _kept(self, newest_first: list[int]) -> set[int]:
        manifests = {
            iteration: manifest
            for iteration in newest_first
            if (manifest := self._read(iteration)) is not None
        }
        kept = set(list(manifests)[: max(1, self._settings.keep_last)])
        if (metric := self._settings.keep_best_metric) is not None:
            values = {
                iteration: manifest.metrics[metric]
                for iteration, manifest in manifests.items()
                if metric in manifest.metrics
            }
            # Of equal ones the earlier is the better: what follows it is no improvement.
            best_first = sorted(values, key=lambda iteration: (rank(metric, values[iteration]), iteration))
            kept.update(best_first[: self._settings.keep_best_count])
        return kept


def fetch_state(located: Located, *, target: Path, credentials: StoreCredentials | None) -> None:
    """Write the state of `located` to `target` and verify it.

    Raises:
        MissingInput: it is not what its manifest says.
        CredentialsRefused, StorageUnreachable: from the store.
    """
    manifest = located.manifest
    open_store(located.uri, credentials).get_file(STATE_FILE, target=target)
    if target.stat().st_size != manifest.sizeBytes or _sha256(target) != manifest.sha256:
        target.unlink()
        raise MissingInput(f"{located.uri}/{STATE_FILE}: is damaged: it does not match its manifest")


def _prefix(iteration: int) -> str:
    return f"step-{iteration:08d}"


def parse_manifest(data: bytes) -> Manifest | None:
    """The manifest that `data` is; None where it is none, whatever it is instead."""
    try:
        manifest = Manifest(**json.loads(data))
    except (ValueError, TypeError, RecursionError):
        return None
    return manifest if _is_sound(manifest) else None


def _is_sound(manifest: Manifest) -> bool:
    """Whether the fields have the types that they say."""
    counts = (manifest.iteration, manifest.epoch, manifest.sizeBytes, manifest.attempt, manifest.worldSize)
    texts = (manifest.sha256, manifest.time, manifest.job)
    return (
        manifest.formatVersion == _FORMAT_VERSION
        and all(type(count) is int and 0 <= count < 2**63 for count in counts)
        and all(isinstance(text, str) for text in texts)
        and isinstance(manifest.recipe, dict)
        and isinstance(manifest.classes, list)
        and all(isinstance(name, str) for name in manifest.classes)
        and isinstance(manifest.metrics, dict)
        and all(type(value) in (int, float) for value in manifest.metrics.values())
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
