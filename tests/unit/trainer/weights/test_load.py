"""Weights of others: whole models and backbones of any time, fitted by name and shape, never run as code."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.weights import load


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 2)


def _save(file: Path, content: object, *, legacy: bool = False) -> Path:
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("key", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_whole_model_is_loaded_however_it_is_wrapped(
    tmp_path: Path, key: str | None, prefix: str, legacy: bool
) -> None:
    theirs, ours = Detector(), Detector()
    state = OrderedDict((f"{prefix}{name}", value) for name, value in theirs.state_dict().items())
    content = state if key is None else {"meta": {"epoch": 12, "config": "model = dict()"}, key: state}
    load.load_weights(
        ours, weights=load.read_weights(_save(tmp_path / "w.pth", content, legacy=legacy)), file="w.pth"
    )
    assert torch.equal(ours.head.weight, theirs.head.weight)
    assert torch.equal(ours.backbone.get_parameter("0.weight"), theirs.backbone.get_parameter("0.weight"))


def test_every_difference_is_named_before_anything_is_loaded(tmp_path: Path) -> None:
    ours = Detector()
    before = ours.backbone.get_parameter("0.weight").clone()
    state = Detector().state_dict()
    del state["head.bias"]
    state["head.weight"] = torch.zeros(7, 4)
    state |= {f"mask.{number}": torch.zeros(1) for number in range(5)}
    with pytest.raises(InvalidInput, match=r"w\.pth does not fit the model") as caught:
        load.load_weights(ours, weights=load.read_weights(_save(tmp_path / "w.pth", state)), file="w.pth")
    for part in (
        "1 missing (head.bias)",
        "5 unexpected (mask.0, mask.1, mask.2 and 2 more)",
        "1 misshapen (head.weight is (7, 4), must be (2, 4))",
    ):
        assert part in str(caught.value)
    assert torch.equal(ours.backbone.get_parameter("0.weight"), before)


class _Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, ("executed",))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_that_would_run_code_is_refused_by_the_name_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": Detector().state_dict(), "meta": {"hook": _Payload()}}
    with pytest.raises(InvalidInput, match=r"it would run posix\.mkdir; nothing in it was run"):
        load.read_weights(_save(tmp_path / "evil.pth", content, legacy=legacy))
    assert not (tmp_path / "executed").exists()


def test_a_bare_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"head.weight": _Payload()}, protocol=2))
    with pytest.raises(InvalidInput, match="not a PyTorch file of tensors alone"):
        load.read_weights(tmp_path / "evil.pth")


@pytest.mark.parametrize("content", [{"epoch": 3}, {0: torch.zeros(1)}, [torch.zeros(1)]])
def test_a_file_of_other_things_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(InvalidInput, match="must contain a state dict"):
        load.read_weights(_save(tmp_path / "w.pth", content))


def test_a_damaged_file_is_refused_under_the_name_that_the_user_gave(tmp_path: Path) -> None:
    content = _save(tmp_path / "w.pth", {"w": torch.zeros(3)}).read_bytes()
    random = np.random.default_rng(0)
    said = []
    for _ in range(300):
        damaged = np.frombuffer(content, np.uint8).copy()
        damaged[random.integers(len(damaged), size=4)] = random.integers(256, size=4)
        (tmp_path / "w.pth").write_bytes(damaged[: random.integers(1, 2 * len(damaged))].tobytes())
        try:
            load.read_weights(tmp_path / "w.pth", called="s3://mine/w.pth")
        except InvalidInput as error:
            said.append(str(error))
    assert len(said) > 100
    assert {text[:29] for text in said} == {"pretrained: s3://mine/w.pth i"}


def test_a_file_that_breaks_off_in_a_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"\x80\x02ctorch\n")
    with pytest.raises(InvalidInput, match="is not a PyTorch file of tensors alone"):
        load.read_weights(tmp_path / "w.pth")
