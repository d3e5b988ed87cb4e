"""Saves next to the training: what the training waits for, what is tried again, what ends the run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kubedet_trainer.errors import LossNotFinite, StorageUnreachable
from kubedet_trainer.settings import CheckpointSettings
from kubedet_trainer.storage.folder import _FolderStore
from kubedet_trainer.training import saver as saver_module
from kubedet_trainer.training import snapshot
from kubedet_trainer.training.checkpoint import Checkpointer, Origin
from kubedet_trainer.training.saver import Saver
from kubedet_trainer.training.state import TrainState

ORIGIN = Origin(recipe={"name": "smoke", "model": {"depth": 18}}, classes=["cell"])
WAIT_SECONDS = 60


class Run:
    """A training whose weights are all its iteration, with a saver and a store that a test can hold up."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, *, patience_seconds: float = 60) -> None:
        self._settings = CheckpointSettings(uri=folder.as_uri(), keep_last=9)
        self.folder = folder
        self.failures = 0
        self.gate = threading.Event()
        """Set: the store writes; cleared: it is stuck."""
        self.gate.set()
        self.outages = 0
        """How many more writes fail."""
        self.writes = 0
        model = nn.Linear(3, 1)
        self.state = TrainState(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            scaler=torch.amp.GradScaler("cpu", enabled=False),
            global_batch=1,
        )
        self.saver = Saver(
            self.checkpointer(), patience_seconds=patience_seconds, on_failure=self._count_failure
        )
        writing = _FolderStore.writing
        patch.setattr(saver_module, "_FIRST_DELAY_SECONDS", 0.01)

        @contextmanager
        def held_up(store: _FolderStore, key: str) -> Iterator[Any]:
            self.writes += 1
            assert self.gate.wait(WAIT_SECONDS)
            if self.outages:
                self.outages -= 1
                raise StorageUnreachable("the store is away")
            with writing(store, key) as sink:
                yield sink

        patch.setattr(_FolderStore, "writing", held_up)

    def checkpointer(self) -> Checkpointer:
        return Checkpointer(self._settings, origin=ORIGIN)

    def train_to(self, iteration: int) -> None:
        self.saver.release()
        self.state.iteration = iteration
        with torch.no_grad():
            for value in self.state.model.parameters():
                value.fill_(iteration)

    def save(self, iteration: int, require_sound: Callable[[], None] = lambda: None) -> None:
        self.train_to(iteration)
        self.saver.save(self.state, epoch=0, require_sound=require_sound)

    def saved(self) -> dict[int, set[float]]:
        """The weights of each committed checkpoint."""
        found = {}
        for manifest in self.folder.glob("step-*/manifest.json"):
            state = torch.load(manifest.with_name("state.pt"), weights_only=True)
            found[state["iteration"]] = {float(value.mean()) for value in state["model"].values()}
        return found

    def _count_failure(self) -> None:
        self.failures += 1


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    made = Run(tmp_path / "store", monkeypatch)
    yield made
    made.gate.set()
    assert made.saver.wait(WAIT_SECONDS)


def test_the_training_goes_on_while_its_state_is_written(run: Run) -> None:
    run.gate.clear()
    run.save(10)
    run.train_to(11)
    assert not run.saver.is_idle()
    assert run.saved() == {}
    run.gate.set()
    assert run.saver.wait(WAIT_SECONDS)
    (status,) = run.saver.collect()
    assert (status.iteration, run.saver.is_idle(), run.saver.collect()) == (10, True, [])
    assert run.saved() == {10: {10.0}}
    assert status.saveSeconds > 0
    assert status.stallSeconds >= 0


def test_an_update_waits_for_the_copy_that_is_under_way(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, may_copy = snapshot._copy, threading.Event()

    def held_up(source: torch.Tensor, target: torch.Tensor) -> None:
        assert may_copy.wait(WAIT_SECONDS)
        copy(source, target)

    monkeypatch.setattr(snapshot, "_copy", held_up)
    run.save(10)
    update = threading.Thread(target=run.train_to, args=(11,))
    update.start()
    update.join(0.1)
    assert update.is_alive()
    may_copy.set()
    update.join(WAIT_SECONDS)
    assert run.saver.wait(WAIT_SECONDS)
    assert run.saved() == {10: {10.0}}
    assert run.saver.collect()[0].stallSeconds >= 0.1


def test_prepared_memory_is_used_for_the_first_copy(run: Run) -> None:
    run.saver.prepare(run.state)
    run.save(10)
    assert run.saver.wait(WAIT_SECONDS)
    assert run.saved() == {10: {10.0}}


def test_two_states_are_written_in_turn_and_a_third_waits(run: Run) -> None:
    run.gate.clear()
    run.save(10)
    run.save(20)
    third = threading.Thread(target=run.save, args=(30,))
    third.start()
    third.join(0.2)
    assert third.is_alive()
    run.gate.set()
    third.join(WAIT_SECONDS)
    assert run.saver.wait(WAIT_SECONDS)
    assert run.saved() == {10: {10.0}, 20: {20.0}, 30: {30.0}}
    assert [status.iteration for status in run.saver.collect()] == [10, 20, 30]


def test_a_save_that_fails_is_counted_told_and_tried_again(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    run.outages = 2
    run.save(10)
    assert run.saver.wait(WAIT_SECONDS)
    assert (run.failures, run.saver.last_error) == (2, None)
    assert [status.iteration for status in run.saver.collect()] == [10]
    assert "the state of iteration 10 is not saved yet: the store is away; trying again" in caplog.text


def test_a_newer_state_takes_the_place_of_one_that_fails(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(saver_module, "_FIRST_DELAY_SECONDS", WAIT_SECONDS)
    run.gate.clear()
    run.outages = 1
    run.save(10)
    run.save(20)
    run.gate.set()
    assert run.saver.wait(WAIT_SECONDS)
    assert run.saved() == {20: {20.0}}
    assert "iteration 10 is not saved: a newer state takes its place" in caplog.text


def test_saves_that_fail_for_too_long_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path / "store", monkeypatch, patience_seconds=0.05)
    run.outages = 1000
    run.save(10)
    assert run.saver.wait(WAIT_SECONDS)
    with pytest.raises(StorageUnreachable, match="the store is away"):
        run.saver.collect()
    assert run.failures > 1
    run.save(20)  # neither waits nor writes
    assert run.saved() == {}


def test_a_state_that_is_not_worth_keeping_is_not_kept(run: Run) -> None:
    def refuse() -> None:
        raise LossNotFinite("loss_cls became NaN")

    run.save(10, require_sound=refuse)
    assert run.saver.wait(WAIT_SECONDS)
    with pytest.raises(LossNotFinite):
        run.saver.collect()
    assert (run.saved(), run.writes) == ({}, 0)


def test_figures_are_noted_after_the_state_that_they_are_of(run: Run) -> None:
    run.gate.clear()
    run.save(10)
    run.saver.add_metrics(10, {"boxAP": 31.5})
    run.gate.set()
    assert run.saver.wait(WAIT_SECONDS)
    located = run.checkpointer().fetch(target=run.folder.with_name("state"))
    assert located is not None
    assert located.manifest.metrics == {"boxAP": 31.5}


def test_who_waits_learns_that_it_is_not_written_yet(run: Run) -> None:
    run.gate.clear()
    run.save(10)
    assert not run.saver.wait(0.01)
