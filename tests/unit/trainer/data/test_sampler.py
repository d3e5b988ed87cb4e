"""Which images make up which batch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import golden_files
from kubedet_trainer.data import sampler
from kubedet_trainer.data.sampler import ChunkSampler, Plan, SampleKey
from kubedet_trainer.errors import InvalidInput


def make_plan(groups: list[int], *, images_per_process: int = 2, chunks: int = 4, seed: int = 0) -> Plan:
    return Plan(
        aspect_groups=np.array(groups),
        images_per_process=images_per_process,
        global_batch=images_per_process * chunks,
        seed=seed,
    )


def take(plan: Plan, *, world_size: int, start: int = 0, end: int) -> list[list[list[SampleKey]]]:
    """For each global iteration its chunks, collected from all ranks and put in order."""
    ranks = [
        list(ChunkSampler(plan, rank=rank, world_size=world_size, start_iteration=start, end_iteration=end))
        for rank in range(world_size)
    ]
    steps = plan.chunks_per_iteration // world_size
    return [
        [ranks[rank][step * steps + turn] for turn in range(steps) for rank in range(world_size)]
        for step in range(end - start)
    ]


def test_epochs_are_the_zoos() -> None:
    golden = golden_files.read_unit("group_sampler")
    plan = Plan(
        aspect_groups=np.array(golden["flag"]),
        images_per_process=golden["samples_per_gpu"],
        global_batch=golden["samples_per_gpu"] * golden["world"],
    )
    per_epoch = plan.iterations_per_epoch
    for epoch, expected in golden["epochs"].items():
        start = int(epoch) * per_epoch
        for rank in range(golden["world"]):
            chunks = ChunkSampler(
                plan,
                rank=rank,
                world_size=golden["world"],
                start_iteration=start,
                end_iteration=start + per_epoch,
            )
            assert [key.position for chunk in chunks for key in chunk] == expected[f"rank{rank}"]
            assert {key.epoch for chunk in chunks for key in chunk} == {int(epoch)}


def test_an_epoch_of_one_process_holds_what_the_old_sampler_of_one_process_took() -> None:
    golden = golden_files.read_unit("group_sampler")
    groups, size = np.array(golden["flag"]), golden["samples_per_gpu"]
    plan = Plan(aspect_groups=groups, images_per_process=size, global_batch=size)
    old = np.array(golden["group_sampler_np_seed0"]).reshape(-1, size)
    ours = sampler.epoch_batches(plan, epoch=0)[:, 0]

    assert ours.shape == old.shape
    assert sorted(map(sum, groups[ours].tolist())) == sorted(map(sum, groups[old].tolist()))
    assert set(ours.flatten()) == set(old.flatten()) == set(range(len(groups)))


def test_coco_has_7330_iterations_an_epoch() -> None:
    groups = [1] * 85_000 + [0] * 32_266
    assert make_plan(groups, chunks=8).iterations_per_epoch == 7330


@given(
    groups=st.lists(st.integers(0, 1), min_size=1, max_size=60),
    world_size=st.sampled_from([1, 2, 3, 4, 6, 12]),
    seed=st.integers(0, 3),
)
def test_every_iteration_has_the_same_images_at_any_world_size(
    groups: list[int], world_size: int, seed: int
) -> None:
    plan = make_plan(groups, chunks=12, seed=seed)
    end = 2 * plan.iterations_per_epoch
    assert take(plan, world_size=world_size, end=end) == take(plan, world_size=12, end=end)


@given(groups=st.lists(st.integers(0, 1), min_size=1, max_size=60), stop=st.integers(0, 20))
def test_resuming_continues_the_same_order_at_another_world_size(groups: list[int], stop: int) -> None:
    plan = make_plan(groups)
    end = stop + 5
    resumed = take(plan, world_size=2, end=stop) + take(plan, world_size=4, start=stop, end=end)
    assert resumed == take(plan, world_size=1, end=end)


@given(groups=st.lists(st.integers(0, 1), min_size=1, max_size=60), seed=st.integers(0, 5))
def test_an_epoch_visits_every_image_in_chunks_of_one_group(groups: list[int], seed: int) -> None:
    plan = make_plan(groups, seed=seed)
    iterations = take(plan, world_size=1, end=plan.iterations_per_epoch)
    chunks = [[key.position for key in chunk] for iteration in iterations for chunk in iteration]
    assert all(len({groups[position] for position in chunk}) == 1 for chunk in chunks)
    visits = Counter(position for chunk in chunks for position in chunk)
    assert set(visits) == set(range(len(groups)))
    for group in set(groups):
        of_group = [count for position, count in visits.items() if groups[position] == group]
        assert max(of_group) - min(of_group) <= 1


def test_epochs_and_seeds_differ() -> None:
    orders = {
        tuple(sampler.epoch_batches(make_plan([0] * 64, seed=seed), epoch=epoch).ravel().tolist())
        for seed, epoch in ((0, 0), (0, 1), (7, 0))
    }
    assert len(orders) == 3


def test_a_global_batch_that_cannot_be_dealt_is_refused() -> None:
    with pytest.raises(
        InvalidInput, match=r"global_batch: got 7, must be a multiple of images_per_process \(2\)"
    ):
        Plan(aspect_groups=np.zeros(4, np.int64), images_per_process=2, global_batch=7)
    with pytest.raises(InvalidInput, match=r"times the number of processes \(3\)"):
        ChunkSampler(make_plan([0] * 8), rank=0, world_size=3, end_iteration=1)


def test_no_training_image_is_refused() -> None:
    with pytest.raises(InvalidInput, match="training images: got none"):
        make_plan([])


@pytest.mark.parametrize("images_per_pass", [1, 2, 4, 8])
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_rank_gets_the_same_images_however_many_it_takes_at_a_time(
    images_per_pass: int, world_size: int
) -> None:
    plan = make_plan([0] * 40 + [1] * 24, chunks=8)
    for rank in range(world_size):
        by_chunk, by_pass = (
            ChunkSampler(plan, rank=rank, world_size=world_size, images_per_pass=images, end_iteration=9)
            for images in (None, images_per_pass)
        )
        assert by_pass.accumulation_steps * images_per_pass * world_size == plan.global_batch
        assert {len(keys) for keys in by_pass} == {images_per_pass}
        share = plan.global_batch // world_size
        chunks, passes = ([key for keys in one for key in keys] for one in (by_chunk, by_pass))
        assert len(passes) == len(chunks) == 9 * share
        for start in range(0, 9 * share, share):
            assert sorted(passes[start : start + share]) == sorted(chunks[start : start + share])


def test_images_of_one_aspect_are_taken_together() -> None:
    plan = make_plan([0] * 40 + [1] * 24, chunks=8)
    for iteration in range(plan.iterations_per_epoch):
        passes = ChunkSampler(
            plan,
            rank=0,
            world_size=1,
            images_per_pass=4,
            start_iteration=iteration,
            end_iteration=iteration + 1,
        )
        aspects = [{int(plan.aspect_groups[key.position]) for key in keys} for keys in passes]
        assert sum(len(found) > 1 for found in aspects) <= 1


def test_passes_must_share_a_process_images_evenly() -> None:
    plan = make_plan([0] * 16)
    with pytest.raises(InvalidInput, match=r"images_per_pass: got 3, must divide the 8 images of a process"):
        ChunkSampler(plan, rank=0, world_size=1, images_per_pass=3, end_iteration=1)
