"""Proposals on their way from a file to a batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dataset_builders import ALONE, DATA, make_split
from kubedet_trainer.data import loader, proposals, splits
from kubedet_trainer.data.proposals import ProposalRecord
from kubedet_trainer.data.splits import Split
from kubedet_trainer.data.transforms import Pipeline
from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.settings import DatasetSettings
from kubedet_trainer.structures import Batch

SLOTS = 3
FACTOR = 1.5  # of 64x48 at this scale
PIPELINE = Pipeline(scale=(96, 72), flip_probability=0.0)


def make_split_with_proposals(root: Path, *, counts: list[int]) -> Split:
    """Images 1, 2, ... of 64x48 with a box each, and so many proposals that begin at (id, 2), (id, 4), ..."""
    plain = make_split(root, sizes=[(64, 48)] * len(counts))
    boxes = [(n, 2 * k, 63.5, 47.5) for n, count in enumerate(counts, start=1) for k in range(1, count + 1)]
    record = ProposalRecord(
        image_ids=np.asarray(plain.annotations.image_ids),
        offsets=np.cumsum([0, *counts]),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.concatenate([np.linspace(0.9, 0.1, count, dtype=np.float32) for count in counts]),
    )
    (root / "given").mkdir()
    with (root / "given/train.npz").open("wb") as file:
        proposals.write_proposals(file, record)
    settings = DatasetSettings(uri="file:///unused", proposals_uri=(root / "given").as_uri())
    table = proposals.open_proposals(
        settings, split="train", annotations=plain.annotations, slots=SLOTS, directory=root
    )
    return splits.training_split(plain.annotations, folder=root / "images", data=DATA, proposals=table)


def train(split: Split, *, end: int = 1, flip_probability: float = 0.0) -> list[Batch]:
    batches = loader.train_loader(
        split,
        plan=loader.sampling_plan(split, images_per_process=2, global_batch=2, seed=0),
        pipeline=Pipeline(scale=PIPELINE.scale, flip_probability=flip_probability),
        world=ALONE,
        end_iteration=end,
        num_workers=0,
    )
    return list(batches)


def test_proposals_are_scaled_clipped_and_padded_to_their_slots(tmp_path: Path) -> None:
    (batch,) = train(make_split_with_proposals(tmp_path, counts=[5, 1]))
    given = batch.proposals
    assert given is not None
    assert given.boxes.shape == (2, SLOTS, 4)
    for place, image_id in enumerate(batch.image_ids.tolist()):
        count = {1: SLOTS, 2: 1}[image_id]
        boxes = [[image_id * FACTOR, 2 * k * FACTOR, 95.25, 71.25] for k in range(1, count + 1)]
        torch.testing.assert_close(given.boxes[place, :count], torch.tensor(boxes))
        assert not given.boxes[place, count:].any()
        assert given.valid[place].tolist() == [True] * count + [False] * (SLOTS - count)
        assert (given.scores[place, :count] > 0).all()
        assert (given.scores[place, count:] == -1).all()
        assert batch.targets.valid[place].sum() == 1
        torch.testing.assert_close(batch.targets.boxes[place, 0, 0], torch.tensor(image_id * FACTOR))


def test_proposals_are_mirrored_with_their_image(tmp_path: Path) -> None:
    (batch,) = train(make_split_with_proposals(tmp_path, counts=[1, 1]), flip_probability=1.0)
    assert batch.proposals is not None
    # About 95, the last column; the first edge would come to lie at -0.25.
    expected = [[0, 3.0, 95 - image_id * FACTOR, 71.25] for image_id in batch.image_ids.tolist()]
    torch.testing.assert_close(batch.proposals.boxes[:, 0], torch.tensor(expected))
    torch.testing.assert_close(batch.targets.boxes[:, 0, 2], batch.proposals.boxes[:, 0, 2])


def test_an_image_without_proposals_is_not_trained_on(tmp_path: Path) -> None:
    split = make_split_with_proposals(tmp_path, counts=[2, 0, 1])
    seen = {number for batch in train(split, end=20) for number in batch.image_ids.tolist()}
    assert seen == {1, 3}
    with pytest.raises(InvalidInput, match="no training image has a box and a proposal"):
        make_split_with_proposals(tmp_path / "none", counts=[0, 0])


def test_an_image_without_proposals_is_measured(tmp_path: Path) -> None:
    split = make_split_with_proposals(tmp_path, counts=[2, 0])
    whole = splits.validation_split(split.annotations, folder=split.folder, proposals=split.proposals)
    batches = loader.val_loader(whole, pipeline=PIPELINE, world=ALONE, num_workers=0)
    counts = [int(batch.proposals.valid.sum()) for batch in batches if batch.proposals is not None]
    assert counts == [2, 0]
