"""Batches for training and validation, from worker processes and without them."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from dataset_builders import (
    ALONE,
    DATA,
    annotation_record,
    image_record,
    load_coco,
    make_image,
    make_split,
    write_annotations,
)
from kubedet_trainer.config import ColourConfig
from kubedet_trainer.data import arrays, forked, loader, splits
from kubedet_trainer.data.loader import Loader
from kubedet_trainer.data.splits import Split
from kubedet_trainer.data.transforms import Pipeline
from kubedet_trainer.errors import InvalidInput, MissingInput
from kubedet_trainer.structures import Batch

WIDE, TALL = (64, 48), (48, 64)
PIPELINE = Pipeline(scale=(96, 64), flip_probability=0.5)


def train(
    split: Split, *, end: int = 4, workers: int = 0, pipeline: Pipeline = PIPELINE, seed: int = 0
) -> Loader:
    return loader.train_loader(
        split,
        plan=loader.sampling_plan(split, images_per_process=2, global_batch=2, seed=seed),
        pipeline=pipeline,
        world=ALONE,
        end_iteration=end,
        num_workers=workers,
    )


def assert_equal(first: Batch, second: Batch) -> None:
    for name in ("pixels", "sizes", "scale_factors", "image_ids"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    for name in ("boxes", "labels", "valid"):
        assert torch.equal(getattr(first.targets, name), getattr(second.targets, name)), name
    assert (first.targets.masks is None) is (second.targets.masks is None)
    if first.targets.masks is not None and second.targets.masks is not None:
        for name in ("run_ends", "starts", "rows", "columns"):
            assert torch.equal(getattr(first.targets.masks, name), getattr(second.targets.masks, name)), name


def test_slots_follow_the_fullest_image_of_a_batch_in_few_steps(tmp_path: Path) -> None:
    counts = {1: 3, 2: 9, 3: 20}
    for number in counts:
        make_image(tmp_path / "images", f"{number}.jpg", width=64, height=48, seed=number)
    annotations = [
        annotation_record(100 * number + extra, image=number, bbox=(5, 5, 20, 10))
        for number, count in counts.items()
        for extra in range(count)
    ]
    images = [image_record(number) for number in counts]
    file = write_annotations(tmp_path / "x.json", images=images, annotations=annotations)
    split = splits.training_split(
        load_coco(file, cache=tmp_path / "cache"), folder=tmp_path / "images", data=DATA
    )
    plan = loader.sampling_plan(split, images_per_process=1, global_batch=1, seed=0)

    batches = loader.train_loader(
        split, plan=plan, pipeline=PIPELINE, world=ALONE, end_iteration=3, num_workers=0
    )

    slots = {int(batch.image_ids): batch.targets.valid.shape[1] for batch in batches}
    assert slots == {1: 8, 2: 16, 3: 24}, "no batch has more than the fullest image of the split needs"


def test_more_processes_than_cores_are_no_reason_to_warn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})
    train(make_split(tmp_path, sizes=[WIDE]), end=1, workers=2)


def test_a_batch_holds_resized_padded_pixels_and_slots_of_ground_truth(tmp_path: Path) -> None:
    split = make_split(tmp_path, sizes=[WIDE, (80, 48)])
    (batch,) = train(split, end=1, pipeline=Pipeline(scale=(96, 64), pad_multiple=32))
    assert batch.pixels.shape == (2, 3, 64, 96)
    assert batch.pixels.dtype == torch.uint8
    assert batch.targets.boxes.shape == (2, 8, 4)
    for place, image_id in enumerate(batch.image_ids.tolist()):
        pixels = cv2.imread(str(tmp_path / "images" / f"{image_id}.jpg"))
        assert pixels is not None
        height, width = batch.sizes[place].tolist()
        factor = batch.scale_factors[place, 0].item()
        assert factor == pytest.approx(min(96 / max(pixels.shape), 64 / 48))
        expected = cv2.resize(pixels, (width, height)).transpose(2, 0, 1)
        np.testing.assert_array_equal(batch.pixels[place, :, :height, :width].numpy(), expected)
        assert not batch.pixels[place, :, height:].any()
        assert not batch.pixels[place, :, :, width:].any()
        box = np.array([image_id, 5, image_id + 19, 14], np.float32) * factor
        np.testing.assert_allclose(batch.targets.boxes[place, 0].numpy(), box, rtol=1e-6)
    assert batch.targets.valid.tolist() == [[True] + [False] * 7] * 2
    assert batch.targets.labels.tolist() == [[1] + [0] * 7] * 2


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_workers_and_none_make_the_same_batches(
    method: Literal["forkserver", "spawn"], shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forked, "context", lambda _: multiprocessing.get_context(method))
    data = shared / "data/coco_mini"
    annotations = load_coco(data / "instances_train.json", cache=tmp_path, masks=True)
    split = splits.training_split(annotations, folder=data / "images", data=DATA)
    pipeline = Pipeline(scale=(160, 96), flip_probability=0.5)
    alone = list(train(split, workers=0, pipeline=pipeline))
    helped = list(train(split, workers=2, pipeline=pipeline))
    assert len(alone) == len(helped) == 4
    for first, second in zip(alone, helped, strict=True):
        assert_equal(first, second)
        assert second.targets.masks is not None


def test_flips_depend_on_seed_and_epoch(tmp_path: Path) -> None:
    split = make_split(tmp_path, sizes=[WIDE] * 2)

    def left_corners(seed: int) -> list[list[float]]:
        batches = train(split, end=8, seed=seed)
        return [batch.targets.boxes[batch.image_ids.argsort(), 0, 0].tolist() for batch in batches]

    assert left_corners(0) == left_corners(0)
    assert left_corners(0) != left_corners(1)
    per_image = list(zip(*left_corners(0), strict=True))
    assert all(len(set(corners)) == 2 for corners in per_image)


def test_augmented_batches_are_stretched_floats_that_depend_on_the_copy(tmp_path: Path) -> None:
    once = make_split(tmp_path, sizes=[WIDE] * 2)
    twice = splits.training_split(once.annotations, folder=once.folder, data=replace(DATA, repeat=2))
    pipeline = Pipeline(scale=(40, 40), keep_aspect=False, pad_multiple=1, zoom_fill=(104, 117, 124))
    batches = list(train(twice, end=2, pipeline=pipeline))  # one epoch
    seen = torch.cat([batch.image_ids for batch in batches]).tolist()
    assert sorted(seen) == [1, 1, 2, 2]
    pixels = torch.cat([batch.pixels for batch in batches])
    assert pixels.shape == (4, 3, 40, 40)
    assert pixels.dtype == torch.float32
    assert len({image.numpy().tobytes() for image in pixels}) == 4
    for first, second in zip(batches, train(twice, end=2, pipeline=pipeline), strict=True):
        assert_equal(first, second)
    (plain,) = loader.val_loader(
        splits.validation_split(once.annotations, folder=once.folder),
        pipeline=replace(pipeline, zoom_fill=None),
        world=replace(ALONE, size=2),
        num_workers=0,
    )
    assert plain.pixels.dtype == torch.uint8
    assert plain.pixels.shape == (1, 3, 40, 40)


def test_colours_change_pixels_and_nothing_else(tmp_path: Path) -> None:
    split = make_split(tmp_path, sizes=[WIDE] * 4)
    colours = ColourConfig(brightness=32, contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=18)
    plain = list(train(split, end=8))
    changed = list(train(split, end=8, pipeline=replace(PIPELINE, colours=colours)))
    again = list(train(split, end=8, pipeline=replace(PIPELINE, colours=colours), workers=1))
    for first, second, third in zip(plain, changed, again, strict=True):
        assert_equal(second, third)
        assert second.pixels.dtype == torch.float32
        assert torch.equal(first.image_ids, second.image_ids)
        assert torch.equal(first.targets.boxes, second.targets.boxes)
    differences = [
        (second.pixels - first.pixels).abs().max() for first, second in zip(plain, changed, strict=True)
    ]
    assert max(differences) > 20


def test_scales_differ_within_their_range_from_image_to_image_and_boxes_follow(tmp_path: Path) -> None:
    split = make_split(tmp_path, sizes=[WIDE] * 4)
    pipeline = replace(PIPELINE, flip_probability=0, scale_jitter=(0.5, 1.5))
    batches = list(train(split, end=20, pipeline=pipeline))
    factors = torch.cat([batch.scale_factors[:, 0] for batch in batches]) / (64 / 48)
    assert 0.5 <= factors.min() < 0.7
    assert 1.3 < factors.max() <= 1.5
    for batch in batches:
        for place, image_id in enumerate(batch.image_ids.tolist()):
            factor = batch.scale_factors[place, 0].item()
            assert batch.sizes[place].tolist() == [int(48 * factor + 0.5), int(64 * factor + 0.5)]
            box = np.array([image_id, 5, image_id + 19, 14], np.float32) * factor
            np.testing.assert_allclose(batch.targets.boxes[place, 0].numpy(), box, rtol=1e-5)
    for first, second in zip(batches, train(split, end=20, pipeline=pipeline, workers=1), strict=True):
        assert_equal(first, second)


def test_augmented_batches_are_the_same_at_any_world_size_and_after_a_resume(tmp_path: Path) -> None:
    made = make_split(tmp_path, sizes=[WIDE] * 5 + [TALL] * 3)
    data = replace(DATA, balance_threshold=1.0, repeat=2)
    split = splits.training_split(made.annotations, folder=made.folder, data=data)
    pipeline = replace(
        PIPELINE, colours=ColourConfig(brightness=32, hue=18), scale_jitter=(0.5, 1.5), flip_probability=0.5
    )
    plan = loader.sampling_plan(split, images_per_process=2, global_batch=4, seed=3)

    def batches(*, size: int, start: int, end: int) -> list[Batch]:
        of_rank = [
            list(
                loader.train_loader(
                    split,
                    plan=plan,
                    pipeline=pipeline,
                    world=replace(ALONE, rank=rank, size=size),
                    start_iteration=start,
                    end_iteration=end,
                    num_workers=0,
                )
            )
            for rank in range(size)
        ]
        steps = plan.chunks_per_iteration // size
        return [
            of_rank[rank][step * steps + turn]
            for step in range(end - start)
            for turn in range(steps)
            for rank in range(size)
        ]

    straight = batches(size=1, start=0, end=9)
    resumed = batches(size=2, start=0, end=5) + batches(size=1, start=5, end=9)
    for first, second in zip(straight, resumed, strict=True):
        assert_equal(first, second)


def test_an_image_without_ground_truth_is_replaced_by_one_of_its_group(tmp_path: Path) -> None:
    split = make_split(tmp_path, sizes=[WIDE, WIDE, WIDE, TALL], empty=[1])
    seen = list(train(split, end=30))
    assert {tuple(batch.image_ids.tolist()) for batch in seen} & {(4, 4)}
    ids = {number for batch in seen for number in batch.image_ids.tolist()}
    assert ids == {1, 3, 4}
    for batch in seen:
        assert set(batch.image_ids.tolist()) in ({1}, {3}, {1, 3}, {4})


def test_validation_visits_each_image_once_over_the_ranks(tmp_path: Path) -> None:
    annotations = make_split(tmp_path, sizes=[WIDE] * 5).annotations
    split = splits.validation_split(annotations, folder=tmp_path / "images")
    shares = [
        [
            batch.image_ids.tolist()
            for batch in loader.val_loader(
                split, pipeline=Pipeline(), world=replace(ALONE, rank=rank, size=2), num_workers=0
            )
        ]
        for rank in range(2)
    ]
    assert shares == [[[1], [3], [5]], [[2], [4]]]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_truncated_image_ends_the_iteration_with_file_and_rule(tmp_path: Path, workers: int) -> None:
    split = make_split(tmp_path, sizes=[WIDE] * 2)
    file = tmp_path / "images/2.jpg"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(InvalidInput, match=r"2\.jpg: .*truncated-image") as refused:
        list(train(split, workers=workers))
    assert "\n" not in str(refused.value)


def test_an_image_of_another_size_than_its_record_is_refused(tmp_path: Path) -> None:
    split = make_split(tmp_path, sizes=[WIDE] * 2)
    (tmp_path / "images/2.jpg").unlink()
    cv2.imwrite(str(tmp_path / "images/2.jpg"), np.zeros((30, 30, 3), np.uint8))
    with pytest.raises(InvalidInput, match=r"image 2 is 30x30, must be 64x48 as its record says"):
        list(train(split))


def test_a_turned_picture_is_refused_with_the_remedy(tmp_path: Path) -> None:
    split = make_split(tmp_path, sizes=[WIDE] * 2)
    file = tmp_path / "images/2.jpg"
    (exif := Image.Exif())[274] = 6
    Image.open(file).save(file, exif=exif)
    with pytest.raises(InvalidInput, match=r"is 48x64, must be 64x48 .*; if EXIF turns it, annotate it as"):
        list(train(split))


def test_a_split_without_its_images_or_without_boxes_is_refused(tmp_path: Path) -> None:
    annotations = make_split(tmp_path, sizes=[WIDE]).annotations
    with pytest.raises(MissingInput, match=r"1\.jpg: image 1 is absent"):
        arrays.require_images(annotations, tmp_path / "elsewhere")
    with pytest.raises(InvalidInput, match="no training image has a box"):
        make_split(tmp_path / "crowds", sizes=[WIDE], empty=[0])


def test_workers_go_on_when_they_are_asked_to_stop(tmp_path: Path) -> None:
    split = make_split(tmp_path, sizes=[WIDE] * 4)
    batches = train(split, end=40, workers=2)
    iterator = iter(batches)
    next(iterator)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
    assert len(list(iterator)) == 39
    for worker in workers:
        worker.join(timeout=60)
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_closing_in_the_middle_ends_the_workers(tmp_path: Path) -> None:
    batches = train(make_split(tmp_path, sizes=[WIDE] * 4), end=1000, workers=2)
    iterator = iter(batches)
    next(iterator)
    workers = multiprocessing.active_children()
    batches.close()
    assert not any(worker.is_alive() for worker in workers)
    assert list(iterator) == []
