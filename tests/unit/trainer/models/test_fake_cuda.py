"""Every detector of the zoo on a fake GPU: training step and detection, in every precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fake_cuda
from kubedet_trainer.config import Recipe
from kubedet_trainer.config.recipe import Precision
from kubedet_trainer.recipes import RECIPES, read_recipe

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
SMALL_SIZE, FULL_SIZE = (64, 96), (800, 1344)


def _architectures() -> dict[str, Recipe]:
    """The first recipe of each detector that differs from all before it by more than its size."""
    found: dict[object, Recipe] = {}
    for name in RECIPES:
        recipe = read_recipe(name)
        if recipe.published is not None:
            data = replace(recipe.data, num_proposals=recipe.data.num_proposals and 64, images_per_process=2)
            shrunk = replace(
                recipe, model=fake_cuda.small(recipe.model), data=data, global_batch=2, published=None
            )
            found.setdefault(shrunk.model, shrunk)
    return {recipe.name: recipe for recipe in found.values()}


ARCHITECTURES = _architectures()
FAMILIES = (
    "rpn_r50_fpn_1x",
    "fast_mask_rcnn_r50_fpn_1x",
    "mask_rcnn_r50_fpn_1x",
    "cascade_mask_rcnn_r50_fpn_1x",
    "retinanet_r50_fpn_1x",
    "mask_rcnn_r50_fpn_gn_2x",
    "faster_rcnn_mdconv_c3_c5_r50_fpn_1x",
    "faster_rcnn_mdpool_r50_fpn_1x",
    "ssd300_coco",
)
_NOT_DETERMINISTIC = frozenset(
    {
        "aten::_adaptive_avg_pool2d_backward",
        "aten::_adaptive_avg_pool3d_backward",
        "aten::_ctc_loss_backward",
        "aten::_histogramdd_from_bin_cts",
        "aten::adaptive_max_pool2d_backward",
        "aten::avg_pool3d_backward",
        "aten::bincount",
        "aten::fractional_max_pool2d_backward",
        "aten::grid_sampler_2d_backward",
        "aten::histc",
        "aten::kthvalue",
        "aten::max_unpool2d",
        "aten::median",
        "aten::nll_loss2d_forward",
        "aten::put_",
        "aten::reflection_pad2d_backward",
        "aten::upsample_bicubic2d_backward",
        "aten::upsample_bilinear2d_backward",
        "torchvision::_deform_conv2d_backward",
    }
)
"""What `torch.use_deterministic_algorithms` refuses on GPUs: its documentation, and torchvision's kernels."""


@pytest.fixture(autouse=True)
def gpu() -> Iterator[None]:
    with fake_cuda.fake_gpu():
        yield


def _check(recipe: Recipe, *, size: tuple[int, int]) -> set[str]:
    """Train and detect in every precision; returns the operators of the training steps."""
    detector = fake_cuda.build(recipe)
    batch = fake_cuda.make_batch(recipe, size=size)
    operators: set[str] = set()
    for precision in PRECISIONS:
        run = fake_cuda.prepare_run(replace(recipe, precision=precision), detector)
        guard = fake_cuda.train_step(run, batch)
        operators |= guard.operators
        assert run.state.iteration == 1
        for name, weight in detector.named_parameters():
            assert weight.device == fake_cuda.DEVICE, name
            if weight.requires_grad:
                assert weight.grad is not None, name
                assert (weight.grad.device, weight.grad.dtype) == (fake_cuda.DEVICE, torch.float32), name
    found, _ = fake_cuda.detect(detector, batch)
    assert len(found) == len(batch.pixels)
    assert {one.boxes.device for one in found} == {fake_cuda.DEVICE}
    return operators


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_small_detector_of_each_architecture_trains_and_detects(name: str) -> None:
    recipe = ARCHITECTURES[name]
    operators = _check(recipe, size=SMALL_SIZE)
    refused = operators & _NOT_DETERMINISTIC
    assert bool(refused) is ("dconv" in name), refused


@pytest.mark.parametrize("name", FAMILIES)
def test_a_detector_of_each_family_trains_and_detects_at_full_size(name: str) -> None:
    _check(read_recipe(name), size=FULL_SIZE)


def test_no_recipe_of_the_zoo_is_left_out() -> None:
    zoo = [read_recipe(name) for name in RECIPES if read_recipe(name).published]
    assert len(zoo) == 95
    known = {recipe.model for recipe in ARCHITECTURES.values()}
    assert {fake_cuda.small(recipe.model) for recipe in zoo} == known


PLANTED: dict[str, Callable[[torch.Tensor], object]] = {
    "a tensor of another device": lambda x: x + torch.ones(4, device="cpu"),
    "a value read by the host": lambda x: x.sum().item(),
    "a branch on a value": lambda x: 1 if x.sum() > 0 else 0,
    "a shape that the data decide": lambda x: x.nonzero(),
    "a boolean index": lambda x: x[x > 0],
    "a copy to the device": lambda x: torch.ones(4, device="cpu").to(x.device),
    "a copy to the host": lambda x: x.cpu(),
    "a constant of the host": lambda x: torch.tensor([1.0, 2.0], device=x.device),
}


@pytest.mark.parametrize("what", PLANTED)
def test_what_a_step_must_not_do_is_refused(what: str) -> None:
    x = torch.ones(4, device=fake_cuda.DEVICE)
    assert fake_cuda.refused(lambda: PLANTED[what](x))


def test_the_place_of_a_copy_is_named() -> None:
    constant = torch.ones(4, device="cpu")
    assert f"{Path(__file__).name}:" in fake_cuda.refused(lambda: constant.to(fake_cuda.DEVICE))
