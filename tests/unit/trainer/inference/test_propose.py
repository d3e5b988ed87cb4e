"""`kubedet propose`: from a proposal network to what Fast R-CNN is fed with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import trainer_builders
from dataset_builders import local_splits
from kubedet_trainer.commands.inference import propose
from kubedet_trainer.data import arrays, proposals
from kubedet_trainer.settings import DatasetSettings

SHAPES = "synthetic://shapes?images=3&val_images=2&size=96x64"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(architecture: str) -> Any:
    model = trainer_builders.make_detector(architecture)
    torch.save({"state_dict": model.state_dict()}, "weights.pth")
    return CliRunner().invoke(
        propose,
        [
            *("weights.pth", "--recipe", f"smoke_{architecture}", "--classes", "circle, square, triangle"),
            *("--dataset", SHAPES, "--output", "given"),
        ],
    )


def test_what_a_network_proposes_is_what_fast_rcnn_is_given(tmp_path: Path) -> None:
    result = run("rpn")
    assert result.exit_code == 0, result.output
    settings = DatasetSettings(uri=SHAPES, proposals_uri=(tmp_path / "given").as_uri())
    train, val = local_splits(settings, tmp_path / "dataset")
    lines = iter(result.stdout.splitlines())
    for name, files, count in (("train", train, 3), ("val", val, 2)):
        annotations = arrays.load_annotations(files, cache=tmp_path / "cache")
        table = proposals.open_proposals(
            settings, split=name, annotations=annotations, slots=1000, directory=tmp_path
        )
        assert table is not None
        assert len(table.counts()) == count
        assert f"/given/{name}.npz: {table.counts().sum()} proposals in {count} images" in next(lines)
        for row in range(count):
            boxes, scores = table.of_image(row)
            assert len(boxes) > 10
            assert (np.diff(scores) <= 0).all()
            assert boxes.min() >= 0
            assert (boxes.max(axis=0) <= [96, 64, 96, 64]).all()
            assert boxes[:, 2].max() > 80, "of the original image, not of a resized one"


def test_only_a_proposal_network_proposes() -> None:
    result = run("faster_rcnn")
    assert result.exit_code == 65
    assert "smoke_faster_rcnn is a faster_rcnn, must be an rpn" in result.stderr
