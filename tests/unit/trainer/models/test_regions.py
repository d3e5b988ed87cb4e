"""The second stage trains on ground truths and proposals together, positives first."""

from __future__ import annotations

import torch

import trainer_builders
from kubedet_trainer.models.assign import MaxIouAssigner
from kubedet_trainer.models.regions import RegionSampler, RegionSamples
from kubedet_trainer.models.sample import BalancedSampler
from kubedet_trainer.structures import Proposals

FIRST, SECOND = trainer_builders.TWO_OBJECTS
SAMPLER = RegionSampler(
    assigner=MaxIouAssigner(positive_iou=0.5, negative_iou=0.5, min_positive_iou=0.5),
    sampler=BalancedSampler(num_samples=8, positive_fraction=0.5),
)


def _sample(boxes: list[list[float]], *, empty: int = 0) -> RegionSamples:
    """Two objects, in 5 slots, and the proposals `boxes`, of which the last `empty` are not valid."""
    valid = torch.arange(len(boxes)) < len(boxes) - empty
    proposals = Proposals(boxes=torch.tensor([boxes]), scores=valid[None].float(), valid=valid[None])
    targets = trainer_builders.make_targets([[FIRST, SECOND]])
    return SAMPLER(proposals, targets, torch.Generator().manual_seed(0))


def test_ground_truths_are_positives_that_are_told_from_proposals() -> None:
    near_second = [62.0, 22.0, 109.0, 79.0]
    regions = _sample([near_second, [0.0, 0, 5, 5]])

    found = {
        tuple(box): (label, from_gt)
        for box, label, from_gt, used in zip(
            regions.boxes[0].tolist(),
            regions.labels[0].tolist(),
            regions.from_gt[0].tolist(),
            regions.used[0].tolist(),
            strict=True,
        )
        if used
    }
    assert found == {
        tuple(FIRST): (1, True),
        tuple(SECOND): (2, True),
        tuple(near_second): (2, False),
        (0.0, 0.0, 5.0, 5.0): (0, False),
    }


def test_positives_keep_to_the_first_slots() -> None:
    regions = _sample([FIRST] * 6 + [SECOND] * 6 + [[0.0, 0, 5, 5]] * 6)

    assert SAMPLER.max_positives == 4
    assert regions.positives(4).positive.all()
    assert not regions.positive[:, 4:].any()


def test_only_slots_with_positives_are_given_out_where_counting_them_does_not_wait() -> None:
    regions = _sample([[0.0, 0, 5, 5]] * 6)

    assert regions.positives(4).positive.tolist() == [[True, True]]
    with trainer_builders.as_on_gpu():
        assert regions.positives(4).positive.tolist() == [[True, True, False, False]]


def test_a_proposal_that_is_empty_is_no_sample() -> None:
    regions = _sample([[0.0, 0, 5, 5], [0.0, 0, 9, 9]], empty=1)

    assert [0.0, 0.0, 9.0, 9.0] not in regions.boxes[regions.used].tolist()
