"""Durable training state: written whole or not at all, verified before use, never pruned to nothing.

A checkpoint is a prefix ``step-<iteration>/`` of the store with ``state.pt`` and ``manifest.json``. The
manifest is written last and carries the size and the SHA-256 of the state; a prefix without a sound manifest
does not exist. Taking a snapshot (fast, the step waits for it) and writing it (slow) are two calls.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kubedet_trainer.contract import CheckpointStatus
from kubedet_trainer.contract.nearest import did_you_mean
from kubedet_trainer.contract.times import format_now
from kubedet_trainer.errors import CredentialsRefused, InvalidInput, MissingInput, StorageUnreachable
from kubedet_trainer.settings import CheckpointSettings
from kubedet_trainer.storage.store import Sink
from kubedet_trainer.storage.uris import open_store
from kubedet_trainer.training import best, local_copy
from kubedet_trainer.training.manifest import (
    MANIFEST_FILE,
    STATE_FILE,
    Located,
    Manifest,
    fetch_state,
    is_intact,
    parse_manifest,
    require_same_model,
)
from kubedet_trainer.training.snapshot import Snapshot

STORE_FAILURES = (CredentialsRefused, MissingInput, StorageUnreachable)
"""What a store raises, and what may pass."""

_PROBE = "write-test"
_NEWEST = "newest.json"
"""Says which checkpoint was committed last, for stores whose lists lag behind."""
_OBJECT = re.compile(r"step-(\d{8,19})/.+")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What is the same for all checkpoints of a process."""

    recipe: Mapping[str, Any]
    classes: list[str]
    job: str = ""
    attempt: int = 0
    world_size: int = 1


class Checkpointer:
    """Saves, finds and prunes the checkpoints below one URI. Only rank 0 saves.

    All methods raise what `storage.Store` raises.
    """

    def __init__(self, settings: CheckpointSettings, *, origin: Origin, copy: Path | None = None) -> None:
        """Connect to nothing yet.

        Args:
            settings: where the checkpoints are, and which of them are kept.
            origin: what all checkpoints of this process have in common.
            copy: takes a copy of each state that is committed; None keeps none.
        """
        self._settings = settings
        self._origin = origin
        self._copy = copy
        self._store = open_store(settings.uri, settings.credentials)
        self._known: dict[int, Manifest | None] = {}
        """Manifests read or written before, by iteration; None: there is one that nobody can read."""
        self._figures: dict[int, dict[str, float]] = {}
        """What evaluations gave, by iteration, until their manifests say it."""

    def save(self, snapshot: Snapshot) -> CheckpointStatus:
        """Write and commit `snapshot`, then delete what `keepLast` and `keepBest` do not keep."""
        snapshot.wait()
        snapshot.require_sound()
        started = time.perf_counter()
        prefix = _prefix(snapshot.iteration)
        state_file = self._unused_name(prefix)
        with local_copy.replacing(self._copy) as copy:
            size, digest = self._write(f"{prefix}/{state_file}", snapshot.state, copy=copy)
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
                stateFile=state_file,
            )
            self._commit(manifest)
        seconds = time.perf_counter() - started
        self._tidy(newest=snapshot.iteration)
        return CheckpointStatus(
            latest=f"{self._store.uri}/{prefix}",
            iteration=snapshot.iteration,
            time=manifest.time,
            sizeBytes=size,
            saveSeconds=round(seconds, 3),
            stallSeconds=round(snapshot.total_stall_seconds(), 3),
        )

    def require_writable(self) -> None:
        """Write and delete a small object: what would fail at the first save shall fail now."""
        self._store.put_bytes(_PROBE, data=b"may be deleted")
        self._store.delete([_PROBE])

    def is_own(self, uri: str) -> bool:
        """Whether `uri` is that of one of this run's checkpoints."""
        return uri.startswith(f"{self._store.uri}/")

    def state_uri(self, iteration: int) -> str | None:
        """Where the state of one of this run's checkpoints lies; None where there is no such checkpoint."""
        manifest = self._read(iteration)
        uri = f"{self._store.uri}/{_prefix(iteration)}"
        return None if manifest is None else Located(uri=uri, manifest=manifest).state_uri

    def add_metrics(self, iteration: int, *, metrics: Mapping[str, float]) -> None:
        """Note in a committed checkpoint what an evaluation of its weights gave, then prune by it.

        Where that fails, the next call of this or of `save` does it: until then nothing is pruned.
        """
        metric = self._settings.keep_best_metric
        if metric is not None and metric not in metrics:
            _log.warning(
                "checkpoint.keepBest.metric: got '%s', must be one of %s.%s",
                metric,
                ", ".join(metrics),
                did_you_mean(metric, metrics),
            )
        self._figures[iteration] = dict(metrics)
        self._note_figures()
        if self._read(iteration) is not None:
            self._tidy(newest=iteration)

    def _note_figures(self) -> None:
        for iteration, metrics in list(self._figures.items()):
            if (manifest := self._read(iteration)) is not None:
                self._commit(replace(manifest, metrics=metrics))
            del self._figures[iteration]

    def fetch(self, *, target: Path) -> Located | None:
        """Have the newest intact state in `target`, as `resume` asks; None: start from scratch.

        ``Auto`` looks below the run's own URI. The URI of a checkpoint elsewhere starts a run that has no
        checkpoint of its own yet; a URI below the run's own goes back to exactly that one.

        Raises:
            MissingInput: `resume` names a checkpoint that is not there or not intact.
            InvalidInput: the checkpoint is of another model or other classes.
        """
        resume = self._settings.resume.rstrip("/")
        if resume == "Never":
            return None
        if not self.is_own(resume) and (own := self._fetch_newest(target=target)) is not None:
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
        """Have the state of `located` in `target`, and verify it. It is not downloaded where it is there.

        Raises:
            MissingInput: it is not what its manifest says.
            InvalidInput: it is of another model or other classes.
        """
        require_same_model(located, recipe=self._origin.recipe, classes=self._origin.classes)
        if is_intact(target, located.manifest):
            _log.info("%s: taken from its copy in the work directory", located.state_uri)
        else:
            fetch_state(located, target=target, credentials=self._settings.credentials)
        _require_state(located, file=target)

    def _fetch_newest(self, *, target: Path) -> Located | None:
        return self.fetch_first(sorted(self._committed(), reverse=True), target=target)

    def fetch_first(self, iterations: Sequence[int], *, target: Path) -> Located | None:
        """Have the first of this run's checkpoints that is intact in `target`; None: there is none.

        Raises:
            InvalidInput: all that are intact are of another model or other classes.
        """
        foreign: InvalidInput | None = None
        for iteration in iterations:
            uri = f"{self._store.uri}/{_prefix(iteration)}"
            if (manifest := self._read(iteration)) is None:
                _log.warning("%s: its manifest cannot be read; trying another checkpoint", uri)
                continue
            located = Located(uri=uri, manifest=manifest)
            try:
                self.download(located, target=target)
            except (MissingInput, InvalidInput) as error:
                _log.warning("%s; trying another checkpoint", error)
                if isinstance(error, InvalidInput):  # of another run, or its manifest is damaged
                    foreign = foreign or error
                continue
            return located
        if foreign is not None:
            raise foreign
        return None

    def _committed(self) -> set[int]:
        """The iterations that a list shows with a manifest, and the one that was committed last."""
        return {
            iteration
            for iteration, keys in self._objects().items()
            if f"{_prefix(iteration)}/{MANIFEST_FILE}" in keys
        } | self._newest()

    def _newest(self) -> set[int]:
        try:
            iteration = json.loads(self._store.get_bytes(_NEWEST))["iteration"]
        except (MissingInput, ValueError, TypeError, KeyError, RecursionError):
            return set()
        return {iteration} if type(iteration) is int and 0 <= iteration < 2**63 else set()

    def _objects(self) -> dict[int, dict[str, int]]:
        """Keys and sizes of all objects of checkpoints, by iteration."""
        found: dict[int, dict[str, int]] = {}
        for item in self._store.list("step-"):
            if match := _OBJECT.fullmatch(item.key):
                found.setdefault(int(match[1]), {})[item.key] = item.size
        return found

    def _read(self, iteration: int) -> Manifest | None:
        if iteration not in self._known:
            try:
                data = self._store.get_bytes(f"{_prefix(iteration)}/{MANIFEST_FILE}")
            except MissingInput:
                return None
            manifest = parse_manifest(data)
            is_own = manifest is not None and manifest.iteration == iteration
            self._known[iteration] = manifest if is_own else None
        return self._known[iteration]

    def _unused_name(self, prefix: str) -> str:
        """A name for a state that no manifest vouches for: what is committed there stays whole meanwhile."""
        if self._store.exists(f"{prefix}/{MANIFEST_FILE}"):
            return f"state-{secrets.token_hex(4)}.pt"
        return STATE_FILE

    def _write(self, key: str, state: Mapping[str, Any], *, copy: Sink) -> tuple[int, str]:
        """Store `state` while it is serialised and read it back; returns its size and its SHA-256."""
        with self._store.writing(key) as sink:
            hashed = _Hashed(sink, copy)
            torch.save(dict(state), hashed)  # type: ignore[arg-type]  # of a file it needs no more
            hashed.raise_failure()
        digest = hashed.sha256.hexdigest()
        if self._store.sha256(key) != digest:  # SeaweedFS does not check the hash of what it receives
            raise StorageUnreachable(f"{self._store.uri}/{key}: the store did not keep what was written")
        return hashed.size, digest

    def _commit(self, manifest: Manifest) -> None:
        key = f"{_prefix(manifest.iteration)}/{MANIFEST_FILE}"
        self._store.put_bytes(key, data=manifest.to_json())
        self._known[manifest.iteration] = manifest

    def _tidy(self, *, newest: int) -> None:
        """Note the newest checkpoint and prune. What fails here is done after the next save."""
        try:
            self._note_figures()
            self._store.put_bytes(_NEWEST, data=json.dumps({"iteration": newest}).encode())
            self._prune(newest=newest)
            self._store.sweep()
        except STORE_FAILURES as error:
            _log.warning("old checkpoints are not deleted now: %s", error)

    def _prune(self, *, newest: int) -> None:
        """Delete what need not be kept: manifests first, so that nobody reads what is half gone.

        Only what is older than every kept one of `keepLast` is deleted: a list or an answer that is wrong
        for a moment cannot cost a checkpoint. What lies beyond `newest` is another run's and is left alone.
        """
        found = {iteration: keys for iteration, keys in self._objects().items() if iteration <= newest}
        whole = [iteration for iteration in sorted(found, reverse=True) if self._is_whole(found, iteration)]
        last = whole[: max(1, self._settings.keep_last)]
        kept = {*last, *self._best(whole)}
        for iteration in found:
            if last and iteration < last[-1] and iteration not in kept:
                keys = sorted(found[iteration], key=lambda key: not key.endswith(MANIFEST_FILE))
                self._store.delete(keys)
                self._known.pop(iteration, None)
        if newest in whole and (manifest := self._read(newest)) is not None:
            own = {f"{_prefix(newest)}/{name}" for name in (MANIFEST_FILE, manifest.stateFile)}
            self._store.delete(sorted(found[newest].keys() - own))  # what it replaced

    def _is_whole(self, found: Mapping[int, Mapping[str, int]], iteration: int) -> bool:
        """Whether a listed checkpoint has a sound manifest and a state of the size that it says."""
        if (manifest := self._read(iteration)) is None:
            return False
        return found[iteration].get(f"{_prefix(iteration)}/{manifest.stateFile}") == manifest.sizeBytes

    def _best(self, iterations: list[int]) -> list[int]:
        if (metric := self._settings.keep_best_metric) is None:
            return []
        evaluations = [
            {"iteration": iteration, "metrics": manifest.metrics}
            for iteration in iterations
            if (manifest := self._read(iteration)) is not None
        ]
        order = [point["iteration"] for point in best.best_first(evaluations, metric=metric)]
        return order[: self._settings.keep_best_count]


class _Hashed:
    """Hashes and counts what it passes on to a sink, and to the copy.

    A failure of the sink is kept until the end: torch's writer does not expect one in the middle.
    """

    def __init__(self, sink: Sink, copy: Sink) -> None:
        self._sink = sink
        self._copy = copy
        self._failure: Exception | None = None
        self.size = 0
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        if self._failure is None:
            try:
                self._sink.write(data)
            except Exception as error:
                self._failure = error
            else:
                self._copy.write(data)
                self.sha256.update(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing; the sink ends with its block."""

    def raise_failure(self) -> None:
        """Raise what the sink raised, if it did."""
        if self._failure is not None:
            raise self._failure


def _prefix(iteration: int) -> str:
    return f"step-{iteration:08d}"


def _require_state(located: Located, *, file: Path) -> None:
    """Raise `MissingInput` where `file` is whole and nevertheless no state of this iteration."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        is_state = isinstance(state, dict) and state.get("iteration") == located.manifest.iteration
    except Exception:  # what torch raises depends on what the file is instead
        is_state = False
    if not is_state:
        file.unlink()
        raise MissingInput(
            f"{located.state_uri}: is not the training state of iteration {located.manifest.iteration}"
        )
