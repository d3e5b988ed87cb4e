"""What a training needs and takes on paper: next to the zoo's page, and worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from kubedet_trainer import config
from kubedet_trainer.errors import UsageError
from kubedet_trainer.recipes import RECIPES, estimate, read_recipe
from kubedet_trainer.recipes.cost import Memory, StepCost, Work, read_cost
from kubedet_trainer.recipes.gpus import GPUS, find_gpu

GIB = 2**30
PUBLISHED = [name for name in RECIPES if read_recipe(name).published]

COST = StepCost(
    images=2,
    parameters=10,
    memory=Memory(weights=GIB, gradients=GIB, optimizer=GIB, inputs=0, activations=2 * GIB, working=2 * GIB),
    forward=Work(operations=10, flops=10**12, product_bytes=10**9, other_bytes=2 * 10**9),
    backward=Work(operations=20, flops=10**9, product_bytes=9 * 10**9, other_bytes=0),
    update=Work(operations=1, other_bytes=9 * 10**8),
)
"""Three GiB, and two more for each image."""


def zoo_estimate(name: str) -> estimate.Estimate:
    found = estimate.known_estimate(read_recipe(name))
    assert found is not None
    return found


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_row_is_estimated_above_the_page(name: str) -> None:
    """The page has the allocated peak of 19 rows, and of the others what the allocator kept for it."""
    row, need = read_recipe(name).published, zoo_estimate(name).need
    assert row is not None
    counted = need.tensors if row.memory_kind == "allocated" else need.tensors + need.allocator
    assert 0.25 * row.memory_gb <= counted / GIB <= row.memory_gb


def test_page_counts_allocated_memory_of_nineteen_rows() -> None:
    kinds = [row.memory_kind for name in PUBLISHED if (row := read_recipe(name).published)]
    assert (len(kinds), kinds.count("allocated")) == (95, 19)


def test_parts_of_a_step_take_the_longer_of_arithmetic_and_traffic() -> None:
    recipe = replace(read_recipe("faster_rcnn_r50_fpn_1x"), precision="fp32")
    [on] = estimate.estimate(recipe, COST, kinds=[GPUS["v100"]]).on
    assert [(part.part, part.bound) for part in on.parts] == [
        ("forward: products", "compute"),
        ("forward: the rest", "bandwidth"),
        ("backward: products", "bandwidth"),
        ("backward: the rest", "bandwidth"),
        ("update", "bandwidth"),
    ]
    seconds = [1 / 15.7, 2e9 / 0.9e12, 9e9 / 0.9e12, 0, 9e8 / 0.9e12]
    assert [part.seconds for part in on.parts] == pytest.approx(seconds)
    assert on.seconds_per_iteration == pytest.approx(sum(seconds))
    assert on.hours == pytest.approx(87_960 * sum(seconds) / 3600, rel=1e-3)
    assert on.hours is not None
    assert on.gpu_hours == pytest.approx(8 * on.hours)


def test_fewer_gpus_take_more_passes_but_one_update() -> None:
    recipe = read_recipe("faster_rcnn_r50_fpn_1x")
    [on] = estimate.estimate(recipe, COST, gpus=2, kinds=[GPUS["a100"]]).on
    [alone] = estimate.estimate(recipe, COST, kinds=[GPUS["a100"]]).on
    assert (on.images_per_pass, on.accumulation_steps) == (2, 4)
    assert [part.seconds for part in on.parts] == pytest.approx(
        [part.seconds * (1 if part.part == "update" else 4) for part in alone.parts]
    )


def test_a_gpu_without_a_precision_computes_in_float32() -> None:
    assert GPUS["v100"].flops_per_second("tf32") == GPUS["v100"].flops_per_second("fp32")
    assert GPUS["h100"].flops_per_second("tf32") > GPUS["h100"].flops_per_second("fp32")


@pytest.mark.parametrize(("gib", "images"), [(1, 0), (6, 0), (8, 1), (10, 2), (15, 4), (24, 8), (60, 16)])
def test_as_many_images_fit_as_divide_the_global_batch(gib: int, images: int) -> None:
    """With 10 % and 0.75 GiB on top, n images need 4.05 + 2.2 n GiB."""
    recipe = read_recipe("faster_rcnn_r50_fpn_1x")
    assert estimate.most_images(recipe, COST, memory_bytes=gib * GIB) == images


def test_auto_fills_the_memory_and_keeps_the_batch() -> None:
    recipe = config.apply_overrides(
        read_recipe("faster_rcnn_r50_fpn_1x"), {"data.images_per_process": "auto"}
    )
    small = replace(GPUS["v100"], memory_gb=7)
    large = GPUS["v100"]
    found = estimate.estimate(recipe, COST, gpus=2, kinds=[small, large])
    assert [(on.images_per_pass, on.accumulation_steps, on.fits) for on in found.on] == [
        (1, 8, True),
        (4, 2, True),  # more would fit if wide and tall images were never padded to each other
    ]
    assert found.plan.global_batch == 16


def test_pages_and_programs_get_the_same_estimate() -> None:
    document = json.loads(json.dumps(zoo_estimate("mask_rcnn_r50_fpn_1x").as_document()))
    memory = document["memoryBytes"]
    parts = ("weights", "gradients", "optimizer", "inputs", "activations", "working")
    assert sum(memory[part] for part in parts) == memory["tensors"]
    assert memory["total"] == memory["tensors"] + memory["allocator"] + memory["context"]
    assert document["checkpointBytes"] == memory["weights"] + memory["optimizer"]
    assert list(document["on"]) == ["V100", "A100", "H100", "H200", "B200"]
    assert document["iterations"] == 12 * 7330


def test_costs_survive_json() -> None:
    assert read_cost(json.loads(json.dumps(COST.as_document()))) == COST


def test_a_wrong_gpu_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"--gpu: got 'h10', must be one of v100, .* Did you mean 'h100'"):
        find_gpu("h10")
