"""Lives of a run that saves on an unreliable store: processes that are killed, answers that fail, damage.

Each life follows from its seed. A life is a few processes one after the other, each a fork of this one: it
resumes, saves some states next to its steps, and ends or is killed by SIGKILL between or within calls of the
store. The state of an iteration depends on the iteration alone, so that every copy of it can be judged.
After each process the store is judged without faults:

- a resume is bad if it gives a state that was never saved, or an older one than the newest intact one;
- a checkpoint is lost if it was committed, need not be pruned, was not damaged on purpose, and is not there.

    python tests/save_lives.py --faults 1000 --uri file:///tmp/lives [--endpoint http://...] [--seed 0]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kubedet_trainer.errors import InvalidInput, StorageUnreachable, TrainerError
from kubedet_trainer.settings import CheckpointSettings, StoreCredentials
from kubedet_trainer.storage import s3 as s3_store
from kubedet_trainer.storage.store import Store
from kubedet_trainer.storage.uris import open_store
from kubedet_trainer.training import checkpoint, manifest, saver
from kubedet_trainer.training.checkpoint import STORE_FAILURES, Checkpointer, Origin
from kubedet_trainer.training.manifest import MANIFEST_FILE, parse_manifest
from kubedet_trainer.training.saver import Saver
from kubedet_trainer.training.state import TrainState
from store_faults import DAMAGES, FaultyStore

ORIGIN = Origin(recipe={"name": "smoke", "model": {"depth": 18}}, classes=["cell"])
_STEP = 10
_SMALL, _LARGE = 4_000, 1_500_000
"""Numbers in a state; a large one takes more than one part of an upload."""


@dataclass(kw_only=True)
class Verdict:
    """What was done to some lives, and what came of it."""

    faults: Counter[str] = field(default_factory=Counter)
    """By kind."""
    lives: int = 0
    saves: int = 0
    bad_resumes: list[str] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    pruned_last: list[str] = field(default_factory=list)
    short_resumes: int = 0
    """Resumes by the way that fails from an intact state, but not from the newest one."""

    @property
    def failures(self) -> list[str]:
        """All that must not be."""
        return self.bad_resumes + self.losses + self.pruned_last


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the lives of a run lie."""

    uri: str
    credentials: StoreCredentials
    unreliable: StoreCredentials | None = None
    """The same store by a way that fails; used by the processes, not by the judge."""


def live(seed: int, place: Place, verdict: Verdict) -> None:
    """One life; adds to `verdict`."""
    life = _Life(seed, place, verdict)
    for _ in range(life.random.randint(2, 4)):
        life.run_process()
        life.judge("after a process")
        life.damage()
        life.judge("after damage")
    verdict.lives += 1
    life.clear()


class _Life:
    def __init__(self, seed: int, place: Place, verdict: Verdict) -> None:
        self.random = random.Random(f"life {seed}")
        self._seed, self._place, self._verdict = seed, place, verdict
        self._uri = f"{place.uri}/life-{seed}"
        self._store = open_store(self._uri, place.credentials)
        self._keep = self.random.randint(1, 3)
        self._size = _LARGE if self.random.random() < 0.15 else _SMALL
        self._committed: set[int] = set()
        self._damaged: set[int] = set()
        self._processes = 0
        self.copy = Path(tempfile.gettempdir(), f"copy-{os.getpid()}-{seed}", "newest.pt")
        """Of the processes' work directory."""

    def settings(self, credentials: StoreCredentials) -> CheckpointSettings:
        return CheckpointSettings(uri=self._uri, credentials=credentials, keep_last=self._keep)

    def run_process(self) -> None:
        """Fork, and read what the process told before it ended."""
        self._processes += 1
        stale = [item.key for item in self._store.list()]
        with tempfile.NamedTemporaryFile() as journal:
            if (pid := os.fork()) == 0:
                code = 1
                try:
                    _train(self, Path(journal.name), stale_keys=stale)
                    code = 0
                except (*STORE_FAILURES, InvalidInput):  # as a rank ends, with the code of its error
                    code = 2
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(code)
            _, status = os.waitpid(pid, 0)
            if os.waitstatus_to_exitcode(status) == 1:
                raise RuntimeError(f"life {self._seed}: its process {self._processes} broke")
            for line in Path(journal.name).read_text().splitlines():
                self._read_entry(json.loads(line))

    def _read_entry(self, entry: dict[str, Any]) -> None:
        if "fault" in entry:
            self._verdict.faults[entry["fault"]] += 1
        elif "committed" in entry:
            self._verdict.saves += 1
            self._committed.add(entry["committed"])
            self._damaged.discard(entry["committed"])
        elif not entry["isRight"]:
            self._verdict.bad_resumes.append(f"life {self._seed}: a process resumed from {entry}")
        elif entry["resumed"] < max(self._needed(), default=0):
            self._verdict.short_resumes += 1

    def judge(self, when: str) -> None:
        """Compare the store, as a process without faults sees it, with what was committed."""
        where = f"life {self._seed}, process {self._processes}, {when}"
        self._note_untold()
        needed = self._needed()
        self._verdict.losses += [
            f"{where}: {iteration} is lost" for iteration in sorted(needed) if not self._is_intact(iteration)
        ]
        checkpointer = Checkpointer(self.settings(self._place.credentials), origin=ORIGIN)
        try:
            with tempfile.TemporaryDirectory() as folder:
                found = _resume(checkpointer, self._size, target=Path(folder, "state"))
        except InvalidInput:  # none is intact, and a damaged manifest reads like that of another run
            found = None
        if found is None and needed:
            self._verdict.pruned_last.append(f"{where}: nothing to resume from, {sorted(needed)} expected")
        elif found is not None and (not found[1] or found[0] < max(needed, default=0)):
            self._verdict.bad_resumes.append(f"{where}: resumed from {found}, {sorted(needed)} expected")

    def _note_untold(self) -> None:
        """Count what is intact as committed, though its process was killed before it told so."""
        keys = [item.key for item in self._store.list("step-") if item.key.endswith(MANIFEST_FILE)]
        intact = {step for key in keys if self._is_intact(step := int(key.split("/")[0][5:]))}
        self._committed |= intact - self._damaged

    def _needed(self) -> set[int]:
        """What may not have been pruned and was not damaged."""
        return set(sorted(self._committed)[-self._keep :]) - self._damaged

    def _is_intact(self, iteration: int) -> bool:
        prefix = f"step-{iteration:08d}"
        try:
            found = parse_manifest(self._store.get_bytes(f"{prefix}/{MANIFEST_FILE}"))
            assert found is not None
            with tempfile.TemporaryDirectory() as folder:
                self._store.get_file(f"{prefix}/{found.stateFile}", target=Path(folder, "state"))
                content = Path(folder, "state").read_bytes()
        except (TrainerError, AssertionError):
            return False
        return hashlib.sha256(content).hexdigest() == found.sha256

    def damage(self) -> None:
        """Sometimes break the local copy, and an object of the newest checkpoint or of another one."""
        if self.copy.exists() and self.random.random() < 0.3:
            place = open_store(self.copy.parent.as_uri())
            name = self.random.choice(["truncated", "bit flipped at rest", "object lost"])
            DAMAGES[name].harm(place, self.copy.name, self.random)
            self._verdict.faults[f"{name}, of the copy"] += 1
        keys = [item.key for item in self._store.list()]
        if not keys or self.random.random() < 0.4:
            return
        newest = max(keys).rpartition("/")[0] or "newest"
        chosen = [key for key in keys if key.startswith(newest)] if self.random.random() < 0.7 else keys
        key = self.random.choice(chosen)
        suitable = [name for name, kind in DAMAGES.items() if kind.suits(key)]
        name = self.random.choice(suitable)
        DAMAGES[name].harm(self._store, key, self.random)
        self._verdict.faults[name] += 1
        if key.startswith("step-"):
            self._damaged.add(int(key.split("/")[0].removeprefix("step-")))

    def clear(self) -> None:
        """Delete everything."""
        shutil.rmtree(self.copy.parent, ignore_errors=True)
        self._store.delete([item.key for item in self._store.list()])


def _train(life: _Life, journal: Path, *, stale_keys: list[str]) -> None:
    """What a forked process does: resume, then save states of later iterations next to its steps."""
    torch.set_num_threads(1)
    saver._FIRST_DELAY_SECONDS = saver._URGENT_DELAY_SECONDS = 0.005
    saver._LONGEST_DELAY_SECONDS = 0.02
    chance = life.random.choice([0.0, 0.02, 0.05, 0.2])
    fate = random.Random(f"process {life._seed} {life._processes}")

    def tell(**entry: Any) -> None:
        with journal.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def open_faulty(uri: str, credentials: StoreCredentials | None = None) -> Store:
        return FaultyStore(
            open_store(uri, credentials), chance=chance, fate=fate, tell=tell, stale_keys=stale_keys
        )

    for module in (checkpoint, manifest):
        vars(module)["open_store"] = open_faulty
    checkpointer = Checkpointer(
        life.settings(life._place.unreliable or life._place.credentials), origin=ORIGIN, copy=life.copy
    )
    iteration = 0
    if (found := _resume(checkpointer, life._size, chance=chance, target=life.copy)) is not None:
        iteration = found[0]
        tell(resumed=iteration, isRight=found[1])
    run = Saver(checkpointer, patience_seconds=0.5, on_failure=lambda: None)
    state = _state(iteration, life._size)
    for _ in range(fate.randint(1, 5)):
        iteration += _STEP
        run.release()
        state.iteration = iteration
        _fill(state.model, iteration)
        run.save(state, epoch=0, require_sound=lambda: None)
        if fate.random() < 0.7:
            run.wait(20)
        for status in run.collect():
            tell(committed=status.iteration)
    run.wait(20)
    for status in run.collect():
        tell(committed=status.iteration)


def _resume(
    checkpointer: Checkpointer, size: int, *, target: Path, chance: float = 0.0
) -> tuple[int, bool] | None:
    """The iteration that a process continues from, and whether its state is that iteration's."""
    for attempt in range(20):  # as an operator starts a worker again that did not reach its store
        try:
            located = checkpointer.fetch(target=target)
            break
        except StorageUnreachable:
            if attempt == 19 or not chance:
                raise
    if located is None:
        return None
    found = torch.load(target, weights_only=True)
    expected = _state(found["iteration"], size)
    same = all(
        torch.equal(found["model"][name], value) for name, value in expected.model.state_dict().items()
    )
    return found["iteration"], same and found["iteration"] == located.manifest.iteration


def _state(iteration: int, size: int) -> TrainState:
    model = nn.Linear(size // 4, 4, bias=False)
    _fill(model, iteration)
    return TrainState(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        global_batch=1,
        iteration=iteration,
    )


def _fill(model: nn.Module, iteration: int) -> None:
    """The weights that the run has after `iteration` steps."""
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.rand(value.shape, generator=torch.Generator().manual_seed(iteration)))


def run_lives(place: Place, *, faults: int, seed: int, journal: Path | None) -> Verdict:
    """Live from `seed` on until so many faults have been injected, those in the journal of a proxy too."""
    verdict = Verdict()
    while sum((verdict.faults + _proxied(journal)).values()) < faults:
        live(seed + verdict.lives, place, verdict)
    verdict.faults += _proxied(journal)
    return verdict


def _proxied(journal: Path | None) -> Counter[str]:
    return Counter() if journal is None else Counter(journal.read_text().splitlines())


def main() -> int:
    """Print the verdict as JSON; 1 if something went wrong that must not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, required=True)
    parser.add_argument("--uri", required=True)
    parser.add_argument("--endpoint")
    parser.add_argument("--through", help="the same server by a way that fails")
    parser.add_argument("--journal", type=Path, help="where that way notes what it did")
    parser.add_argument("--access-key", default="")
    parser.add_argument("--secret-key", default="")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    s3_store._PART_BYTES = 5 << 20
    s3_store._RETRY = s3_store._RETRY.new(backoff_factor=0.01)
    keys = {"access_key": asked.access_key or None, "secret_key": asked.secret_key or None}
    place = Place(
        uri=asked.uri,
        credentials=StoreCredentials(endpoint=asked.endpoint, **keys),
        unreliable=StoreCredentials(endpoint=asked.through, **keys) if asked.through else None,
    )
    started = time.monotonic()
    verdict = run_lives(place, faults=asked.faults, seed=asked.seed, journal=asked.journal)
    document = {
        "faults": dict(sorted(verdict.faults.items())),
        "lives": verdict.lives,
        "saves": verdict.saves,
        "shortResumes": verdict.short_resumes,
        "badResumes": verdict.bad_resumes,
        "losses": verdict.losses,
        "prunedLast": verdict.pruned_last,
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(document))
    return 1 if verdict.failures else 0


if __name__ == "__main__":
    sys.exit(main())
