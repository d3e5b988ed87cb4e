"""Whether a training fits a GPU, which is known before anything is done for it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kubedet_trainer import config, dist
from kubedet_trainer.config import Recipe
from kubedet_trainer.contract import ExitCode
from kubedet_trainer.dist import World
from kubedet_trainer.errors import GpuTooSmall
from kubedet_trainer.recipes import read_recipe
from kubedet_trainer.recipes.estimate import Need, memory_need
from kubedet_trainer.training import capacity, loop, setup
from kubedet_trainer.training.setup import Run

GIB = 2**30


def make_recipe(**overrides: str) -> Recipe:
    return config.apply_overrides(read_recipe("mask_rcnn_r50_fpn_1x"), overrides)


def need(images: int, *, pixels: float = 1.0) -> Need:
    """What so many images at a time need, each padded to `pixels` times its pixels."""
    return memory_need(capacity.find_cost(make_recipe()).at(images, pixels=pixels))


def test_a_training_that_cannot_fit_says_which_field_to_change() -> None:
    recipe = make_recipe(**{"data.images_per_process": "16"})
    with pytest.raises(GpuTooSmall) as raised:
        capacity.check(recipe, memory_bytes=need(8).total)
    assert raised.value.exit_code == ExitCode.OUT_OF_GPU_MEMORY
    assert re.fullmatch(
        r"data\.images_per_process: got 16, must be at most 8: 16 need about [\d.]+ GiB, the GPU has "
        r"[\d.]+ GiB; the global batch stays\. Otherwise a smaller data\.scale or precision=bf16 takes less",
        str(raised.value),
    )


def test_a_gpu_for_not_even_one_image_says_what_else_takes_less() -> None:
    with pytest.raises(GpuTooSmall, match=r"not even one image fits: a smaller data.scale or precision=bf16"):
        capacity.check(make_recipe(), memory_bytes=need(1).least - 1)


@pytest.mark.parametrize(
    ("images", "spare", "most"), [(1, 0, 1), (2, 0, 2), (3, 0, 2), (4, 0, 4), (4, -1, 2)]
)
def test_a_training_that_fits_learns_how_many_images_do(images: int, spare: int, most: int) -> None:
    """Of 16 images a step 3 at a time would leave one."""
    recipe = make_recipe(**{"data.images_per_process": "1"})
    memory_bytes = memory_need(capacity.find_cost(recipe).at(images)).total + spare
    assert capacity.check(recipe, memory_bytes=memory_bytes) == most


def test_what_only_the_margin_exceeds_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        capacity.check(make_recipe(), memory_bytes=need(2).least)
        capacity.check(make_recipe(), memory_bytes=need(2).total)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert caplog.messages[0].startswith("2 images at a time need about ")


@pytest.mark.parametrize(("images", "pixels", "most"), [(1, 1.0, 1), (2, 1.0, 2), (4, 1.0, 2), (4, 1.68, 4)])
def test_auto_never_asks_for_more_than_fits(images: int, pixels: float, most: int) -> None:
    """More than the recipe's two may be wide and tall images together: 1344 x 1344 and not 1344 x 800."""
    recipe = make_recipe(**{"data.images_per_process": "auto"})
    assert capacity.check(recipe, memory_bytes=need(images, pixels=pixels).total) == most


def test_the_smallest_gpu_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [80 * GIB, 32 * GIB]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(sizes))
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda number: SimpleNamespace(total_memory=sizes[number])
    )
    assert capacity.smallest_gpu() == 32 * GIB
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert capacity.smallest_gpu() is None


@pytest.mark.parametrize(
    ("device", "noted", "passes"),
    [("cuda", 4, (4, 1)), ("cuda", 1, (1, 4)), ("cuda", None, (2, 2)), ("cpu", 4, (2, 2))],
)
def test_ranks_take_what_was_noted_on_gpus_alone(
    make_run: Callable[..., Run], tmp_path: Path, device: str, noted: int | None, passes: tuple[int, int]
) -> None:
    run = make_run(**{"data.images_per_process": "2"})
    recipe = config.apply_overrides(run.recipe, {"data.images_per_process": "auto"})
    if noted is not None:
        capacity.note_most_images(run.settings.work_directory, noted)
    plan = setup._plan_batch(run.settings, recipe, world=World(device=torch.device(device)))
    assert (plan.images_per_pass, plan.accumulation_steps) == passes
    assert plan.global_batch == 4


@pytest.mark.parametrize("noted", [4, None])
def test_all_ranks_ask_each_other_what_fits_whether_they_know_it_or_not(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, noted: int | None
) -> None:
    """A rank that asked alone would wait for ever."""
    run = make_run(**{"data.images_per_process": "2"})
    recipe = config.apply_overrides(run.recipe, {"data.images_per_process": "auto"})
    if noted is not None:
        capacity.note_most_images(run.settings.work_directory, noted)
    asked: list[list[float]] = []

    def maximum(values: list[float]) -> list[float]:
        asked.append(values)
        return [1.0, max(values[1], 0)]  # another rank does not know

    monkeypatch.setattr(dist, "maximum", maximum)
    plan = setup._plan_batch(run.settings, recipe, world=World(device=torch.device("cuda")))
    assert (plan.images_per_pass, plan.accumulation_steps) == (2, 2)
    assert asked == [[noted is None, -(noted or 0)]]


def test_a_step_of_other_passes_has_the_same_images_and_the_mean_of_their_losses(
    make_run: Callable[..., Run],
) -> None:
    """Detectors average over what a pass samples; every pass counts as much as its images."""
    seen: dict[int, set[int]] = {}
    gradients: dict[int, torch.Tensor] = {}
    for images in (1, 2, 4):
        run = make_run(name=f"checkpoints-{images}", **{"data.flip_probability": "0"})
        run.data = replace(run.data, batch=run.data.batch.filling(images))
        run.model = _MeanBrightness(run.detector)
        batches = list(run.batches(end_iteration=1))
        assert [len(batch.pixels) for batch in batches] == [images] * (4 // images)
        seen[images] = {int(number) for batch in batches for number in batch.image_ids}
        weight = run.model.weight
        loop._step(run, iter(batches))
        assert weight.grad is not None
        gradients[images] = weight.grad.clone()
    assert seen[1] == seen[2] == seen[4]
    torch.testing.assert_close(gradients[1], gradients[4])
    torch.testing.assert_close(gradients[2], gradients[4])


class _MeanBrightness(torch.nn.Module):
    """Its only loss is a weight times the mean value of the pixels of its images."""

    def __init__(self, detector: torch.nn.Module) -> None:
        super().__init__()
        self.weight = next(detector.parameters())
        self.weight.requires_grad_(True)

    def forward(self, images: object, *_: object) -> dict[str, torch.Tensor]:
        pixels = getattr(images, "pixels").float()  # noqa: B009
        return {"loss": pixels.mean() * self.weight.sum() / 255}
