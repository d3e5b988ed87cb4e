"""Weights of others: whole models and backbones, checked by hash and by shape, never run as code."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from kubedet_trainer import weights
from kubedet_trainer.errors import InvalidInput, MissingInput


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 2)


def _save(file: Path, content: object) -> Path:
    torch.save(content, file)
    return file


@pytest.mark.parametrize(
    "wrap", [lambda state: state, lambda state: {"state_dict": state}, lambda state: {"model": state}]
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_whole_model_is_loaded_however_it_is_wrapped(tmp_path: Path, wrap, prefix: str):
    theirs, ours = Detector(), Detector()
    state = {f"{prefix}{name}": value for name, value in theirs.state_dict().items()}
    weights.load_weights(ours, file=_save(tmp_path / "w.pt", wrap(state)))
    assert torch.equal(ours.head.weight, theirs.head.weight)
    assert torch.equal(ours.backbone[0].weight, theirs.backbone[0].weight)


def test_a_classifier_fills_the_backbone_and_its_last_layer_is_left_out(tmp_path: Path):
    theirs, ours = Detector(), Detector()
    state = {**theirs.backbone.state_dict(), "fc.weight": torch.zeros(9, 4), "fc.bias": torch.zeros(9)}
    state.pop("1.num_batches_tracked")  # files of before 2018 have none
    head = ours.head.weight.clone()
    weights.load_weights(ours, file=_save(tmp_path / "w.pt", state))
    assert torch.equal(ours.backbone[0].weight, theirs.backbone[0].weight)
    assert torch.equal(ours.head.weight, head)


def test_every_difference_is_named_before_anything_is_loaded(tmp_path: Path):
    ours = Detector()
    before = ours.backbone[0].weight.clone()
    state = Detector().state_dict()
    del state["head.bias"]
    state["head.weight"] = torch.zeros(7, 4)
    state["mask.weight"] = torch.zeros(1)
    with pytest.raises(InvalidInput, match="does not fit the model") as caught:
        weights.load_weights(ours, file=_save(tmp_path / "w.pt", state))
    for part in ("missing head.bias", "unexpected mask.weight", r"head.weight is (7, 4), must be (2, 4)"):
        assert part in str(caught.value)
    assert torch.equal(ours.backbone[0].weight, before)


class _Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("executed"),))


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"head.weight": _Payload()}, protocol=2))
    with pytest.raises(InvalidInput, match="not a PyTorch file of tensors alone"):
        weights.load_weights(Detector(), file=tmp_path / "evil.pt")
    assert not (tmp_path / "executed").exists()


def test_the_hash_is_checked_from_the_setting_or_else_from_the_name(tmp_path: Path):
    content = b"weights"
    digest = hashlib.sha256(content).hexdigest()
    cache = tmp_path / "cache"
    good, bad = tmp_path / f"resnet50-{digest[:8]}.pth", tmp_path / "resnet50-00000000.pth"
    for file in (good, bad):
        file.write_bytes(content)
    assert weights.fetch_weights(good.as_uri(), sha256=None, cache=cache).read_bytes() == content
    assert weights.fetch_weights(bad.as_uri(), sha256=digest, cache=cache).read_bytes() == content
    with pytest.raises(InvalidInput, match=f"has SHA-256 {digest}, must be 00000000"):
        weights.fetch_weights(bad.as_uri(), sha256=None, cache=cache)
    assert [path.name.endswith(good.name) for path in cache.iterdir()] == [True]


def test_absent_weights_are_missing_input(tmp_path: Path):
    with pytest.raises(MissingInput):
        weights.fetch_weights((tmp_path / "none.pt").as_uri(), sha256=None, cache=tmp_path)
