"""Sampling: shares, order, padding, fairness, and nothing but the generator decides."""

from __future__ import annotations

import torch

from kubedet_trainer.models.sample import BalancedSampler, Samples

SAMPLER = BalancedSampler(num_samples=8, positive_fraction=0.25)


def _sample(assigned: list[int], *, sampler: BalancedSampler = SAMPLER, seed: int = 0) -> Samples:
    return sampler(torch.tensor([assigned]), torch.Generator().manual_seed(seed))


def test_positives_come_first_and_keep_to_their_share() -> None:
    samples = _sample([1] * 10 + [0] * 10)

    assert samples.positive.tolist() == [[True] * 2 + [False] * 6]
    assert samples.negative.tolist() == [[False] * 2 + [True] * 6]
    assert (samples.indices[0, :2] < 10).all()
    assert (samples.indices[0, 2:] >= 10).all()


def test_negatives_fill_up_where_positives_are_few() -> None:
    samples = _sample([1] + [0] * 10)

    assert samples.positive.sum() == 1
    assert samples.negative.sum() == 7


def test_slots_stay_empty_where_candidates_are_few() -> None:
    samples = _sample([3, 0, 0] + [-1] * 9)

    assert samples.positive.tolist() == [[True] + [False] * 7]
    assert samples.negative.tolist() == [[False, True, True] + [False] * 5]


def test_no_candidate_is_drawn_twice() -> None:
    samples = _sample([1] * 3 + [0] * 30)

    assert len(set(samples.indices[0].tolist())) == 8


def test_equal_generators_draw_equal_samples_and_others_do_not() -> None:
    assigned = [1] * 50 + [0] * 50

    assert torch.equal(_sample(assigned).indices, _sample(assigned).indices)
    assert not torch.equal(_sample(assigned).indices, _sample(assigned, seed=1).indices)


def test_every_candidate_is_equally_likely() -> None:
    draws = BalancedSampler(num_samples=4, positive_fraction=0.5)
    assigned = torch.tensor([[1] * 5 + [0] * 5]).expand(4000, -1)

    samples = draws(assigned, torch.Generator().manual_seed(0))

    share = torch.bincount(samples.indices.flatten(), minlength=10) / 4000
    torch.testing.assert_close(share, torch.full((10,), 0.4), atol=0.04, rtol=0)


def test_priority_decides_who_is_drawn() -> None:
    first_come = BalancedSampler(
        num_samples=4,
        positive_fraction=0.5,
        priority=lambda shape, _: -torch.arange(shape[1]).expand(shape).float(),
    )

    assert _sample([0, 1, 1, 0, 1, 0], sampler=first_come).indices.tolist() == [[1, 2, 0, 3]]
