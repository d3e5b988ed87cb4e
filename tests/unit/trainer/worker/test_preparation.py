"""The process that makes the data local: its exit code, and the record that it leaves of a failure."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kubedet_trainer.data import prepare
from kubedet_trainer.errors import CredentialsRefused, StorageUnreachable
from kubedet_trainer.worker import preparation, processes


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the handlers are the test run's
    monkeypatch.setattr(processes, "end_with_parent", lambda: None)
    monkeypatch.setenv("KUBEDET_RECIPE", "smoke_faster_rcnn")
    monkeypatch.setenv("KUBEDET_DATASET_URI", "synthetic://shapes?images=2&val_images=1&size=64x64")
    monkeypatch.setenv("KUBEDET_CHECKPOINT_URI", tmp_path.as_uri())
    monkeypatch.setenv("KUBEDET_WORK_DIRECTORY", str(tmp_path))
    return tmp_path


@pytest.fixture
def failing(work: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Have the preparation raise an error."""

    def fail(error: BaseException) -> None:
        def refuse(*_: object) -> None:
            raise error

        monkeypatch.setattr(prepare, "prepare_dataset", refuse)

    return fail


def record(work: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((work / "failures" / "preparation.json").read_text())
    return document


def test_data_is_local_afterwards(work: Path) -> None:
    assert preparation.main([]) == 0
    assert len(list((work / "dataset").rglob("*.jpg"))) == 3
    assert not (work / "failures").exists()


def test_proposals_are_fetched_only_if_the_recipe_trains_on_them(work: Path) -> None:
    assert preparation.main(["--proposals"]) == 65
    assert "dataset.proposals" in record(work)["message"]


@pytest.mark.parametrize(
    ("error", "code"), [(CredentialsRefused("refused"), 77), (StorageUnreachable("silent"), 154)]
)
def test_error_of_the_data_set_ends_with_its_code(
    work: Path, failing: Callable[[BaseException], None], error: Exception, code: int
) -> None:
    failing(error)
    assert preparation.main([]) == code
    assert (record(work)["exitCode"], record(work)["reason"]) == (code, type(error).__name__)
    assert record(work)["lastLines"] == []


def test_unexpected_error_leaves_its_traceback(work: Path, failing: Callable[[BaseException], None]) -> None:
    failing(ZeroDivisionError("division by zero"))
    assert preparation.main([]) == 1
    assert record(work)["reason"] == "ZeroDivisionError"
    assert record(work)["lastLines"][-1] == "ZeroDivisionError: division by zero"


def test_stop_is_no_failure(work: Path, failing: Callable[[BaseException], None]) -> None:
    failing(KeyboardInterrupt())
    assert preparation.main([]) == 143
    assert not (work / "failures").exists()
