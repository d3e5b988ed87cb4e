"""The copy of the newest checkpoint in the work directory: what it saves, and that it can do no harm."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kubedet_trainer.errors import StorageUnreachable
from kubedet_trainer.settings import CheckpointSettings
from kubedet_trainer.storage import folder as folder_store
from kubedet_trainer.training.checkpoint import Checkpointer, Origin
from kubedet_trainer.training.local_copy import copy_file
from kubedet_trainer.training.snapshot import Snapshot

ORIGIN = Origin(recipe={"name": "smoke", "model": {"depth": 18}}, classes=["cell"])


class Place:
    """A store and the work directory of a worker."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "store"
        self.copy = copy_file(folder / "work")

    def save(self, iteration: int, *, run: str = "run") -> None:
        """What rank 0 does in a process of its own; the state is that of this run at this iteration."""
        state = {
            "iteration": iteration,
            "model": {"weight": torch.full((100,), float(iteration))},
            "run": run,
        }
        snapshot = Snapshot(iteration=iteration, epoch=0, state=state, stall_seconds=0.0)
        self._checkpointer(run).save(snapshot)

    def restore(self, *, run: str = "run") -> Any:
        """What the next process begins with."""
        if self._checkpointer(run).fetch(target=self.copy) is None:
            return None
        state = torch.load(self.copy, weights_only=True)
        return state["run"], state["iteration"]

    def state_file(self, iteration: int, *, run: str = "run") -> Path:
        return self.store / run / f"step-{iteration:08d}" / "state.pt"

    def files(self) -> list[str]:
        return sorted(path.name for path in self.copy.parent.iterdir())

    def _checkpointer(self, run: str) -> Checkpointer:
        settings = CheckpointSettings(uri=(self.store / run).as_uri(), keep_last=9)
        return Checkpointer(settings, origin=ORIGIN, copy=self.copy)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_restart_needs_no_state_from_the_store_where_the_copy_is_of_the_last_commit(place: Place) -> None:
    place.save(10)
    place.save(20)
    place.state_file(20).unlink()  # whoever asks for it fails
    assert place.restore() == ("run", 20)
    assert place.restore() == ("run", 20)


def test_what_was_downloaded_serves_the_next_start(place: Place) -> None:
    place.save(10)
    place.copy.unlink()
    assert place.restore() == ("run", 10)
    place.state_file(10).unlink()
    assert place.restore() == ("run", 10)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [_cut, _flip, _empty, Path.unlink])
def test_damaged_copy_is_downloaded_again(place: Place, damage: Callable[[Path], None]) -> None:
    place.save(10)
    damage(place.copy)
    assert place.restore() == ("run", 10)
    assert place.copy.read_bytes() == place.state_file(10).read_bytes()


def test_copy_of_another_run_is_never_used(place: Place) -> None:
    place.save(10)
    place.save(10, run="other")
    assert place.restore() == ("run", 10)
    assert place.restore(run="third") is None


def test_copy_that_is_behind_the_store_is_not_used(place: Place) -> None:
    place.save(10)
    before = place.copy.read_bytes()
    place.save(20)
    place.copy.write_bytes(before)
    assert place.restore() == ("run", 20)


def test_only_what_is_committed_becomes_the_copy(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.save(10)
    put_bytes = folder_store._FolderStore.put_bytes

    def fail_on_the_manifest(self: Any, key: str, *, data: bytes) -> None:
        if key.endswith("manifest.json"):
            raise StorageUnreachable("gone")
        put_bytes(self, key, data=data)

    with monkeypatch.context() as patch:
        patch.setattr(folder_store._FolderStore, "put_bytes", fail_on_the_manifest)
        with pytest.raises(StorageUnreachable):
            place.save(20)
    place.state_file(10).unlink()
    assert place.restore() == ("run", 10)
    assert place.files() == ["newest.pt"]


def test_full_disk_costs_the_copy_and_nothing_else(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.save(10)
    place.copy.with_suffix(".half").symlink_to("/dev/full")
    with caplog.at_level(logging.WARNING):
        place.save(20)
    assert "No space left on device; a restart will download the checkpoint" in caplog.text
    assert place.files() == []  # the old one is of no use any longer, and in the way
    assert place.restore() == ("run", 20)
    place.save(30)
    place.state_file(30).unlink()
    assert place.restore() == ("run", 30)


def test_work_directory_that_takes_no_file_costs_the_copy_and_nothing_else(place: Place) -> None:
    place.copy.parent.parent.mkdir()
    place.copy.parent.write_bytes(b"")  # a file where the folder should be
    place.save(10)
    assert place.state_file(10).exists()
    place.copy.parent.unlink()
    assert place.restore() == ("run", 10)
