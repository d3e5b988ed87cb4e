"""Checkpoints of other versions: those of the first release, and those that a newer one may write."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import first_release
from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.inference.publish import publish_checkpoint
from kubedet_trainer.inference.trained import load_detector, measure
from kubedet_trainer.settings import DatasetSettings
from kubedet_trainer.training.setup import Run
from kubedet_trainer.training.snapshot import take_snapshot

DATASET = DatasetSettings(uri="synthetic://shapes?images=8&val_images=2&size=96x64")
SAME = {"model.rpn_head.num_samples": "16"}
"""What the recorded run has otherwise than that of `make_run`."""
MakeRun = Callable[..., Run]


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """The checkpoints of the first release, where `make_run` has its own."""
    return first_release.unpack_checkpoints(tmp_path)


def _newest(recorded: Path) -> Path:
    return max(recorded.glob("step-*"))


def _state(step: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(step / "state.pt", weights_only=True)
    return found


def _change(step: Path, **changes: Any) -> None:
    """Change the manifest as another version might have written it."""
    file = step / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def _rewrite(step: Path, state: dict[str, Any]) -> None:
    torch.save(state, step / "state.pt")
    content = (step / "state.pt").read_bytes()
    _change(step, sizeBytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def test_a_run_continues_from_a_checkpoint_of_the_first_release(recorded: Path, make_run: MakeRun) -> None:
    state = _state(_newest(recorded))
    run = make_run(**SAME)
    assert run.state.iteration == state["iteration"] > 0
    found = run.state.state_dict()
    assert found["model"].keys() == state["model"].keys()
    for name, value in state["model"].items():
        assert torch.equal(found["model"][name], value), name
    momenta = found["optimizer"]["state"]
    assert momenta.keys() == state["optimizer"]["state"].keys()
    for index, kept in state["optimizer"]["state"].items():
        assert torch.equal(momenta[index]["momentum_buffer"], kept["momentum_buffer"])
    for name, value in state["history"].items():
        kept = getattr(run.state.history, name)
        assert (kept[: len(value)] if isinstance(value, list) else kept) == value


def test_a_checkpoint_of_the_first_release_is_published_and_measured(recorded: Path, tmp_path: Path) -> None:
    uri = recorded.as_uri()
    file = publish_checkpoint(uri, output=tmp_path / "out", cache=tmp_path / "cache")
    state = _state(_newest(recorded))
    published = torch.load(file, weights_only=True)
    assert published["state_dict"].keys() == state["model"].keys()
    assert published["meta"]["iter"] == state["iteration"]
    figures = []
    for weights in (uri, file.as_uri()):
        detector = load_detector(weights, cache=tmp_path / "cache", device=torch.device("cpu"))
        assert detector.recipe.precision == "fp32"  # as it was trained, not as this version would
        figures.append(measure(detector, dataset=DATASET, directory=tmp_path / "data"))
    assert figures[0] == figures[1]
    assert "boxAP" in figures[0]


def test_an_option_that_has_come_since_has_its_default(recorded: Path, make_run: MakeRun) -> None:
    step = _newest(recorded)
    recipe = json.loads((step / "manifest.json").read_text())["recipe"]
    del recipe["model"]["box_head"]["positive_fraction"]
    _change(step, recipe=recipe)
    assert make_run(**SAME).state.iteration == _state(step)["iteration"]


def test_what_a_newer_version_has_added_to_a_checkpoint_does_not_matter(
    recorded: Path, make_run: MakeRun
) -> None:
    step = _newest(recorded)
    state = _state(step)
    state["history"]["moods"] = ["good"]
    _rewrite(step, state)
    _change(step, compression="none")
    assert make_run(**SAME).state.iteration == state["iteration"]


def test_a_checkpoint_with_an_option_of_a_newer_version_is_refused_by_its_name(
    recorded: Path, make_run: MakeRun
) -> None:
    for step in recorded.glob("step-*"):
        recipe = json.loads((step / "manifest.json").read_text())["recipe"]
        recipe["model"]["box_head"]["attention"] = "local"
        _change(step, recipe=recipe)
    with pytest.raises(
        InvalidInput, match=r"model\.box_head\.attention: local there, this version .* no such"
    ):
        make_run(**SAME)


def test_another_model_is_refused_by_the_option_that_differs(recorded: Path, make_run: MakeRun) -> None:
    with pytest.raises(InvalidInput, match=r"model\.neck\.channels: 16 there, 32 here"):
        make_run(**SAME, **{"model.neck.channels": "32"})


def test_a_checkpoint_of_a_newer_format_is_named_with_the_remedy_and_stays(
    recorded: Path, make_run: MakeRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, newest = sorted(recorded.glob("step-*"))
    _change(newest, formatVersion=2)
    run = make_run(**SAME)
    assert run.state.iteration == _state(first)["iteration"]
    said = (
        r"formatVersion: got 2, must be 1: a newer version of kubedet wrote this checkpoint; use its trainer"
    )
    assert said in caplog.text
    with pytest.raises(InvalidInput, match=said):
        load_detector(newest.as_uri(), cache=tmp_path / "cache", device=torch.device("cpu"))
    run.checkpointer.save(take_snapshot(run.state, epoch=1))
    assert newest.is_dir()
    _change(first, formatVersion=2)
    with pytest.raises(InvalidInput, match=said):
        make_run(**SAME)
