"""Images of rare classes are repeated as LVIS does it, in epochs of equal length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import sqrt
from pathlib import Path

import numpy as np
import pytest

from dataset_builders import DATA, annotation_record, image_record, load_coco, write_annotations
from kubedet_trainer.data import balance, loader, sampler, splits
from kubedet_trainer.data.arrays import Annotations
from kubedet_trainer.data.sampler import Plan
from kubedet_trainer.data.splits import Split

CLASSES = ("common", "rare", "absent")


def make_annotations(
    folder: Path, labels: Sequence[Sequence[int]], *, crowds: Sequence[int] = (), tall: Sequence[int] = ()
) -> Annotations:
    """Image n has an object of each class of ``labels[n]``; those of the images in `crowds` are crowds."""
    file = write_annotations(
        folder / "instances.json",
        images=[
            image_record(number + 1, width=48 if number in tall else 64, height=64 if number in tall else 48)
            for number in range(len(labels))
        ],
        annotations=[
            annotation_record(
                10 * image + place + 1, image=image + 1, category_id=label, iscrowd=int(image in crowds)
            )
            for image, own in enumerate(labels)
            for place, label in enumerate(own)
        ],
        classes=CLASSES,
    )
    return load_coco(file, cache=folder / "cache")


def balanced(annotations: Annotations, *, threshold: float | None, repeat: int = 1) -> Split:
    data = replace(DATA, balance_threshold=threshold, repeat=repeat)
    return splits.training_split(annotations, folder=Path("images"), data=data)


def plan_of(split: Split, *, global_batch: int = 2) -> Plan:
    return loader.sampling_plan(split, images_per_process=2, global_batch=global_batch, seed=1)


def appearances(split: Split, *, epochs: int) -> Counter[int]:
    """How often each image appears; wrapped-around ones of an epoch's end do not count."""
    plan = plan_of(split)
    found: Counter[int] = Counter()
    for epoch in range(epochs):
        positions = np.unique(sampler.epoch_batches(plan, epoch=epoch))
        found.update(split.rows[positions].tolist())
    return found


def test_the_factor_of_an_image_is_that_of_its_rarest_class(tmp_path: Path) -> None:
    annotations = make_annotations(tmp_path, [[1], [1, 1], [1, 2], [1]] + [[1]] * 6)
    found = balance.repeat_factors(annotations, np.arange(10), threshold=0.4)
    assert found.classes == {"rare": 2.0}  # sqrt(0.4 / 0.1)
    assert found.images.tolist() == [1, 1, 2, 1, 1, 1, 1, 1, 1, 1]


def test_shares_are_those_of_the_images_that_are_trained_on_without_crowds(tmp_path: Path) -> None:
    labels = [[1], [1], [2], [2], [1], [1], [1]]
    annotations = make_annotations(tmp_path, labels, crowds=[3])
    found = balance.repeat_factors(annotations, np.array([0, 1, 2, 3]), threshold=1.0)
    assert found.classes == pytest.approx({"common": sqrt(1 / 0.5), "rare": sqrt(1 / 0.25)})
    assert found.images.tolist() == pytest.approx([sqrt(2), sqrt(2), 2, 1])


def test_images_appear_as_often_as_their_factors_in_epochs_of_equal_length(tmp_path: Path) -> None:
    labels = [[1]] * 37 + [[2]] * 3
    split = balanced(make_annotations(tmp_path, labels, tall=[1, 2, 38]), threshold=0.5)
    factor = sqrt(0.5 / (3 / 40))  # 2.58
    epochs = 400
    found = appearances(split, epochs=epochs)
    assert all(found[image] == epochs for image in range(37))
    for image in range(37, 40):
        assert found[image] / epochs == pytest.approx(factor, abs=0.1)
    plan = plan_of(split)
    shapes = {sampler.epoch_batches(plan, epoch=epoch).shape for epoch in range(20)}
    tall, wide = 2 + factor, 35 + 2 * factor
    iterations = int(np.ceil(tall / 2) + np.ceil(wide / 2))
    assert shapes == {(iterations, 1, 2)}
    assert plan.iterations_per_epoch == iterations


def test_copies_of_an_image_have_random_choices_of_their_own(tmp_path: Path) -> None:
    split = balanced(make_annotations(tmp_path, [[1]] * 8 + [[2]]), threshold=1.0)
    copies = np.flatnonzero(split.rows == 8)
    assert len(copies) == 3  # sqrt(9)
    seen = sampler.epoch_batches(plan_of(split), epoch=0).ravel()
    assert set(copies) <= set(seen.tolist())


def test_no_class_below_the_threshold_leaves_the_order_as_it_is(tmp_path: Path) -> None:
    annotations = make_annotations(tmp_path, [[1, 2]] * 9)
    off, on = (balanced(annotations, threshold=threshold, repeat=2) for threshold in (None, 0.5))
    orders = [sampler.epoch_batches(plan_of(split), epoch=2).tolist() for split in (off, on)]
    assert orders[0] == orders[1]
    assert sorted(np.ravel(orders[0]).tolist()) == list(range(18))


def test_the_log_says_which_classes_are_repeated(tmp_path: Path) -> None:
    annotations = make_annotations(tmp_path, [[1], [1], [1], [2]])
    assert splits.describe_repeated(balanced(annotations, threshold=None)) == ""
    assert splits.describe_repeated(balanced(annotations, threshold=0.5)) == (
        "images of rare classes are repeated (data.balance_threshold): an epoch has 4 images of 4; "
        "times by class: rare 1.41"
    )
