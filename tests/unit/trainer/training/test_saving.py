"""What the training waits for at its end and at a stop, and which saves are due."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from kubedet_trainer.errors import PeerFailed, TerminatedSaved, TerminatedUnsaved
from kubedet_trainer.storage.folder import _FolderStore
from kubedet_trainer.training import loop, saving
from kubedet_trainer.training.setup import Run

MakeRun = Callable[..., Run]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """While it is cleared, the store writes nothing."""
    writing = _FolderStore.writing
    event = threading.Event()
    event.set()

    @contextmanager
    def held_up(store: _FolderStore, key: str) -> Iterator[Any]:
        assert event.wait(60)
        with writing(store, key) as sink:
            yield sink

    monkeypatch.setattr(_FolderStore, "writing", held_up)
    yield event
    event.set()


def _at(run: Run, iteration: int, **checkpoint: Any) -> Run:
    run.state.iteration = iteration
    run.settings = replace(run.settings, checkpoint=replace(run.settings.checkpoint, **checkpoint))
    return run


def _has_step(run: Run, iteration: int) -> bool:
    return run.checkpointer.state_uri(iteration) is not None


@pytest.mark.parametrize(("requested", "ending"), [(True, TerminatedSaved), (False, PeerFailed)])
def test_a_stop_ends_the_rank_once_its_state_is_durable(
    make_run: MakeRun, requested: bool, ending: type[Exception]
) -> None:
    run = _at(make_run(), 1)
    run.stop.requested = requested
    loop._save(run)
    with pytest.raises(ending, match="the state of iteration 1 is saved"):
        saving.end(run)
    assert _has_step(run, 1)
    assert run.saved_iteration == 1


def test_a_stop_whose_state_does_not_become_durable_in_time_says_so(
    make_run: MakeRun, gate: threading.Event
) -> None:
    run = _at(make_run(), 1)
    run.settings = replace(run.settings, grace_seconds=0)
    gate.clear()
    loop._save(run)
    with pytest.raises(TerminatedUnsaved, match="the state of iteration 1 is not written within 1 s"):
        saving.end(run)
    assert run.saved_iteration == -1


def test_the_end_waits_for_what_is_being_written(make_run: MakeRun, gate: threading.Event) -> None:
    run = _at(make_run(), 1)
    gate.clear()
    loop._save(run)
    saving.report(run)
    assert run.saved_iteration == -1
    threading.Timer(0.1, gate.set).start()
    saving.make_durable(run)
    assert run.saved_iteration == 1
    assert _has_step(run, 1)


def test_a_save_by_interval_is_put_off_while_the_one_before_is_written(
    make_run: MakeRun, gate: threading.Event
) -> None:
    run = make_run(**{"schedule.epochs": "9"})
    run.length = replace(run.length, iterations_per_epoch=1000, total_iterations=9000)
    gate.clear()
    loop._save_if_due(_at(run, 10, interval_iterations=10))
    loop._save_if_due(_at(run, 20))
    assert run.copied_iteration == 10
    gate.set()
    saving.make_durable(run)
    loop._save_if_due(_at(run, 23))
    assert run.copied_iteration == 23
    loop._save_if_due(_at(run, 24))
    assert run.copied_iteration == 23
    saving.make_durable(run)
    loop._save_if_due(_at(run, 30))
    assert run.copied_iteration == 30


def test_the_end_of_an_epoch_is_saved_whatever_is_being_written(
    make_run: MakeRun, gate: threading.Event
) -> None:
    run = make_run()
    run.length = replace(run.length, iterations_per_epoch=15, total_iterations=60)
    gate.clear()
    loop._save_if_due(_at(run, 10, interval_iterations=10))
    loop._save_if_due(_at(run, 15))
    assert run.copied_iteration == 15
    gate.set()
    saving.make_durable(run)
    assert (_has_step(run, 10), _has_step(run, 15)) == (True, True)


def test_the_clock_of_the_interval_begins_at_the_copy(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _at(make_run(), 7, interval_seconds=30)
    run.length = replace(run.length, iterations_per_epoch=1000, total_iterations=9000)
    now = run.copied_at
    monkeypatch.setattr(time, "monotonic", lambda: now)
    loop._save_if_due(run)
    assert run.copied_iteration == -1
    now += 30
    loop._save_if_due(run)
    assert run.copied_iteration == 7
    monkeypatch.undo()
    saving.make_durable(run)
