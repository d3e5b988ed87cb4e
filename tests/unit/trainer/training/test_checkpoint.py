"""Checkpoints: committed by a manifest, verified, pruned, and never without one."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from kubedet_trainer.errors import CredentialsRefused, InvalidInput, MissingInput, StorageUnreachable
from kubedet_trainer.settings import CheckpointSettings
from kubedet_trainer.storage import folder as folder_store
from kubedet_trainer.storage.store import SMALL_BYTES
from kubedet_trainer.training.checkpoint import Checkpointer, Origin
from kubedet_trainer.training.snapshot import Snapshot

ORIGIN = Origin(recipe={"name": "smoke", "model": {"depth": 18}}, classes=["cell"], attempt=2, world_size=4)


def _checkpointer(folder: Path, *, origin: Origin = ORIGIN, **settings: Any) -> Checkpointer:
    uri = f"file://{folder}/store"
    return Checkpointer(CheckpointSettings(uri=uri, **settings), origin=origin)


def _snapshot(iteration: int, *, metrics: Mapping[str, float] | None = None) -> Snapshot:
    state = {"iteration": iteration, "model": {"weight": torch.full((4,), float(iteration))}}
    return Snapshot(iteration=iteration, epoch=0, metrics=metrics or {}, state=state, stall_seconds=0.25)


def _steps(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (folder / "store").glob("step-*"))


def _restored(checkpointer: Checkpointer, folder: Path) -> int | None:
    target = folder / "restored.pt"
    if checkpointer.fetch(target=target) is None:
        return None
    iteration: int = torch.load(target, weights_only=True)["iteration"]
    return iteration


def test_a_saved_state_is_found_by_the_next_process(tmp_path: Path) -> None:
    status = _checkpointer(tmp_path).save(_snapshot(20))
    assert status.latest == f"file://{tmp_path}/store/step-00000020"
    assert status.iteration == 20
    assert status.sizeBytes == (tmp_path / "store/step-00000020/state.pt").stat().st_size
    assert status.stallSeconds == 0.25

    located = _checkpointer(tmp_path).fetch(target=tmp_path / "state")
    assert located is not None
    assert located.uri == status.latest
    assert torch.equal(
        torch.load(tmp_path / "state", weights_only=True)["model"]["weight"], torch.full((4,), 20.0)
    )
    manifest = json.loads((tmp_path / "store/step-00000020/manifest.json").read_text())
    assert manifest["recipe"] == ORIGIN.recipe
    assert (manifest["classes"], manifest["attempt"], manifest["worldSize"]) == (["cell"], 2, 4)


def test_without_any_checkpoint_the_run_starts_from_scratch(tmp_path: Path) -> None:
    assert _checkpointer(tmp_path).fetch(target=tmp_path / "state") is None


def test_a_store_that_may_only_be_read_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpointer = _checkpointer(tmp_path)
    checkpointer.require_writable()
    assert list((tmp_path / "store").iterdir()) == []

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(CredentialsRefused, match="Permission denied"):
        checkpointer.require_writable()


def test_a_metric_that_does_not_exist_is_named_with_the_nearest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpointer = _checkpointer(tmp_path, keep_best_metric="boxap")
    checkpointer.save(_snapshot(10))
    checkpointer.add_metrics(10, metrics={"boxAP": 1.0, "ar1000": 2.0})
    assert "keepBest.metric: got 'boxap', must be one of boxAP, ar1000. Did you mean 'boxAP'?" in caplog.text


def test_figures_that_the_store_did_not_take_are_noted_later_and_keep_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpointer = _checkpointer(tmp_path, keep_last=1, keep_best_metric="boxAP", keep_best_count=1)
    checkpointer.save(_snapshot(10))
    put_bytes = folder_store._FolderStore.put_bytes

    def refuse(*_: object, **__: object) -> None:
        raise StorageUnreachable("the store is away")

    monkeypatch.setattr(folder_store._FolderStore, "put_bytes", refuse)
    with pytest.raises(StorageUnreachable):  # a newer state that waits takes the place of this
        checkpointer.add_metrics(10, metrics={"boxAP": 30.0})
    monkeypatch.setattr(folder_store._FolderStore, "put_bytes", put_bytes)
    checkpointer.save(_snapshot(20))
    checkpointer.add_metrics(20, metrics={"boxAP": 20.0})
    checkpointer.save(_snapshot(30))
    assert _steps(tmp_path) == [10, 30]
    manifest = json.loads((tmp_path / "store/step-00000010/manifest.json").read_text())
    assert manifest["metrics"] == {"boxAP": 30.0}


def test_a_state_without_a_manifest_does_not_exist(tmp_path: Path) -> None:
    checkpointer = _checkpointer(tmp_path)
    checkpointer.save(_snapshot(10))
    checkpointer.save(_snapshot(20))
    (tmp_path / "store/step-00000020/manifest.json").unlink()
    assert _restored(_checkpointer(tmp_path), tmp_path) == 10


def _flip_a_bit(step: Path) -> None:
    content = bytearray((step / "state.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (step / "state.pt").write_bytes(content)


def _cut_short(step: Path) -> None:
    (step / "state.pt").write_bytes((step / "state.pt").read_bytes()[:-1])


def _lose_the_state(step: Path) -> None:
    (step / "state.pt").unlink()


def _scramble_the_manifest(step: Path) -> None:
    (step / "manifest.json").write_text('{"iteration": 20, "sha')


def _with(**fields: object) -> Callable[[Path], None]:
    def damage(step: Path) -> None:
        file = step / "manifest.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))

    return damage


def _nest_the_manifest(step: Path) -> None:
    (step / "manifest.json").write_text("[" * 100_000)


def _fill_the_manifest(step: Path) -> None:
    (step / "manifest.json").write_bytes(b" " * (SMALL_BYTES + 1))


def _write_digits(step: Path) -> None:
    (step / "manifest.json").write_text('{"iteration": ' + "9" * 100_000 + "}")


def _put_something_else_there(step: Path) -> None:
    """A file that its manifest vouches for, and that is no state."""
    (step / "state.pt").write_bytes(b"a picture")
    digest = hashlib.sha256(b"a picture").hexdigest()
    _with(sha256=digest, sizeBytes=len(b"a picture"))(step)


_WRONG_TYPES = [
    _with(recipe="text"),
    _with(metrics=5),
    _with(metrics={"boxAP": "high"}),
    _with(classes="cell"),
    _with(classes=[1]),
    _with(iteration="20"),
    _with(sizeBytes=-1),
    _with(sha256=None),
    _with(sha256="0" * 63),
    _with(recipe={"name": "smoke"}),
    _with(iteration=10),
    _with(iteration=10**30),
    _with(metrics={"boxAP": 10**400}),
    _with(stateFile="../step-00000010/state.pt"),
    _with(formatVersion=0),
    _with(formatVersion="2"),
    _fill_the_manifest,
    _nest_the_manifest,
    _write_digits,
    _put_something_else_there,
]


@pytest.mark.parametrize(
    "damage", [_flip_a_bit, _cut_short, _lose_the_state, _scramble_the_manifest, *_WRONG_TYPES]
)
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Any
) -> None:
    checkpointer = _checkpointer(tmp_path)
    checkpointer.save(_snapshot(10))
    checkpointer.save(_snapshot(20))
    damage(tmp_path / "store/step-00000020")
    with caplog.at_level(logging.WARNING):
        assert _restored(_checkpointer(tmp_path), tmp_path) == 10
    assert "step-00000020" in caplog.text
    assert "trying another checkpoint" in caplog.text


def test_an_unreachable_store_is_not_taken_for_a_damaged_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpointer = _checkpointer(tmp_path)
    checkpointer.save(_snapshot(10))

    def unreachable(*_: object, **__: object) -> None:
        raise StorageUnreachable("gone")

    monkeypatch.setattr(folder_store._FolderStore, "get_file", unreachable)
    with pytest.raises(StorageUnreachable):
        _restored(checkpointer, tmp_path)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    checkpointer = _checkpointer(tmp_path, keep_last=2)
    for iteration in (10, 20, 30, 40):
        checkpointer.save(_snapshot(iteration))
    assert _steps(tmp_path) == [30, 40]


def test_the_best_are_kept_besides(tmp_path: Path) -> None:
    checkpointer = _checkpointer(tmp_path, keep_last=1, keep_best_metric="boxAP", keep_best_count=2)
    for iteration, score in ((10, 30.0), (20, 50.0), (30, 40.0), (40, 20.0), (50, 10.0)):
        checkpointer.save(_snapshot(iteration))
        checkpointer.add_metrics(iteration, metrics={"boxAP": score})
    assert _steps(tmp_path) == [20, 30, 50]
    assert _restored(_checkpointer(tmp_path), tmp_path) == 50


def test_the_best_are_known_to_a_later_process(tmp_path: Path) -> None:
    options: dict[str, Any] = {"keep_last": 1, "keep_best_metric": "boxAP"}
    first = _checkpointer(tmp_path, **options)
    first.save(_snapshot(10))
    first.add_metrics(10, metrics={"boxAP": 70.0})
    second = _checkpointer(tmp_path, **options)
    second.save(_snapshot(20, metrics={"boxAP": 60.0}))
    second.save(_snapshot(30))
    assert _steps(tmp_path) == [10, 30]


def test_the_only_valid_checkpoint_outlives_a_save_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpointer = _checkpointer(tmp_path, keep_last=1)
    checkpointer.save(_snapshot(10))
    put_bytes = folder_store._FolderStore.put_bytes

    def fails_on_the_manifest(self: Any, key: str, *, data: bytes) -> None:
        if key == "step-00000020/manifest.json":
            raise StorageUnreachable("gone")
        put_bytes(self, key, data=data)

    monkeypatch.setattr(folder_store._FolderStore, "put_bytes", fails_on_the_manifest)
    with pytest.raises(StorageUnreachable):
        checkpointer.save(_snapshot(20))
    assert _restored(_checkpointer(tmp_path), tmp_path) == 10


def test_a_state_that_the_store_did_not_keep_is_not_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpointer = _checkpointer(tmp_path, keep_last=1)
    checkpointer.save(_snapshot(10))
    monkeypatch.setattr(folder_store._FolderStore, "sha256", lambda *_: "0" * 64)
    with pytest.raises(StorageUnreachable, match="did not keep what was written"):
        checkpointer.save(_snapshot(20))
    assert _restored(_checkpointer(tmp_path), tmp_path) == 10


def test_manifests_are_deleted_before_what_they_vouch_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted: list[str] = []
    delete = folder_store._FolderStore.delete
    checkpointer = _checkpointer(tmp_path, keep_last=1)
    checkpointer.save(_snapshot(10))

    def note(self: Any, keys: Any) -> None:
        keys = list(keys)
        deleted.extend(key for key in keys if self.exists(key))
        delete(self, keys)

    monkeypatch.setattr(folder_store._FolderStore, "delete", note)
    checkpointer.save(_snapshot(20))
    assert deleted == ["step-00000010/manifest.json", "step-00000010/state.pt"]


def test_never_starts_from_scratch_and_leaves_what_lies_ahead_alone(tmp_path: Path) -> None:
    _checkpointer(tmp_path).save(_snapshot(40))
    checkpointer = _checkpointer(tmp_path, resume="Never", keep_last=1)
    assert checkpointer.fetch(target=tmp_path / "state") is None
    checkpointer.save(_snapshot(10))
    checkpointer.save(_snapshot(20))
    assert _steps(tmp_path) == [20, 40]


def test_a_uri_elsewhere_starts_a_run_until_it_has_checkpoints_of_its_own(tmp_path: Path) -> None:
    other = tmp_path / "other"
    _checkpointer(other).save(_snapshot(70))
    resume = f"file://{other}/store/step-00000070"
    checkpointer = _checkpointer(tmp_path, resume=resume)
    assert _restored(checkpointer, tmp_path) == 70
    checkpointer.save(_snapshot(80))
    assert _restored(_checkpointer(tmp_path, resume=resume), tmp_path) == 80


def test_a_uri_below_its_own_goes_back_to_exactly_that_one(tmp_path: Path) -> None:
    checkpointer = _checkpointer(tmp_path)
    checkpointer.save(_snapshot(10))
    checkpointer.save(_snapshot(20))
    back = _checkpointer(tmp_path, resume=f"file://{tmp_path}/store/step-00000010/")
    assert _restored(back, tmp_path) == 10


def test_a_uri_of_no_checkpoint_is_missing_input(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="step-00000099"):
        _checkpointer(tmp_path, resume=f"file://{tmp_path}/store/step-00000099").fetch(target=tmp_path / "x")


@pytest.mark.parametrize(
    ("origin", "what"),
    [
        (Origin(recipe={"name": "smoke", "model": {"depth": 50}}, classes=["cell"]), "recipe's model"),
        (Origin(recipe=ORIGIN.recipe, classes=["cell", "nucleus"]), "classes"),
    ],
)
def test_a_checkpoint_of_another_model_or_data_is_refused(tmp_path: Path, origin: Origin, what: str) -> None:
    _checkpointer(tmp_path).save(_snapshot(10))
    with pytest.raises(InvalidInput, match=f"its {what} differ.*checkpoint.resume to Never"):
        _checkpointer(tmp_path, origin=origin).fetch(target=tmp_path / "state")
