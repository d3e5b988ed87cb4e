"""What a step costs, counted without values: against figures worked out by hand, and against the table."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from kubedet_trainer import config
from kubedet_trainer.config import DetectorOptions, Recipe
from kubedet_trainer.errors import InvalidInput
from kubedet_trainer.models.detector import Detector
from kubedet_trainer.models.options.task import Task
from kubedet_trainer.recipes import RECIPES, cost, read_recipe
from kubedet_trainer.structures import Detections, Images, Targets
from kubedet_trainer.training.counting import count_step, largest_size

SAMPLE = (
    "ssd300_voc",
    "rpn_r50_caffe_fpn_1x",
    "fast_rcnn_r50_fpn_1x",
    "mask_rcnn_r50_fpn_1x",
    "retinanet_r50_fpn_1x",
    "cascade_rcnn_r50_fpn_1x",
    "mask_rcnn_r50_fpn_gn_contrib_2x",
    "faster_rcnn_mdconv_c3_c5_r50_fpn_1x",
    "faster_rcnn_dpool_r50_fpn_1x",
)
"""One of each family. KUBEDET_COUNT_ALL=1 counts every recipe, which takes some minutes."""
COUNTED = tuple(RECIPES) if os.environ.get("KUBEDET_COUNT_ALL") else SAMPLE


class OneConvolution(Detector):
    """A 1x1 convolution from 3 channels to 8, whose mean is the loss; `frozen` is never trained."""

    def __init__(self, task: Task, *, reads_values: bool) -> None:
        super().__init__(task)
        self.convolution = nn.Conv2d(3, 8, 1, bias=False)
        self.frozen = nn.Parameter(torch.zeros(100), requires_grad=False)
        self.reads_values = reads_values

    def forward(self, images: Images, targets: Targets, generator: torch.Generator) -> dict[str, Tensor]:
        loss = self.convolution(images.pixels.float()).mean()
        if self.reads_values and loss.item() > 0:
            loss = 2 * loss
        return {"loss": loss}

    def detect(self, images: Images, scale_factors: Tensor) -> list[Detections]:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class OneConvolutionOptions(DetectorOptions):
    architecture: str = "one_convolution"
    reads_values: bool = False

    def build(self, task: Task) -> Detector:
        return OneConvolution(task, reads_values=self.reads_values)


def make_recipe(*, reads_values: bool = False, **overrides: str) -> Recipe:
    """Images of 64 x 32 pixels, four at a time."""
    smoke = read_recipe("smoke_faster_rcnn")
    recipe = replace(smoke, model=OneConvolutionOptions(reads_values=reads_values))
    return config.apply_overrides(recipe, {"data.scale": "64,32", **overrides})


def test_parts_of_memory_are_those_of_the_tensors() -> None:
    memory = count_step(make_recipe()).cost.memory
    pixels = 4 * 64 * 32
    assert memory.weights == 512 + 512  # 24 and 100 numbers, each in a block of its own
    assert memory.gradients == memory.optimizer == 512  # of the 24 alone
    assert memory.inputs >= 3 * pixels  # a byte each
    assert memory.activations >= 4 * 3 * pixels  # the convolution keeps its input as float32
    made_by_mean_backward = 4 * 8 * pixels
    assert memory.activations + memory.working >= 4 * 3 * pixels + made_by_mean_backward
    assert memory.total == memory.fixed + memory.inputs + memory.activations + memory.working


def test_flops_are_those_of_the_products() -> None:
    count = count_step(make_recipe()).cost
    forward = 2 * 4 * 64 * 32 * 3 * 8
    assert count.forward.flops == forward
    assert count.backward.flops == forward  # for the weights alone: pixels need no gradient
    assert count.update.flops == 0
    assert count.parameters == 24 + 100


def test_gradients_that_come_one_by_one_take_no_more_than_room_for_all() -> None:
    count = count_step(make_recipe())
    memory = count.cost.memory
    assert memory.total - memory.gradients <= count.peak_alone <= memory.total


def test_a_detector_that_reads_values_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"^recipe: got 'smoke_faster_rcnn', must be of a detector that"):
        count_step(make_recipe(reads_values=True))


@pytest.mark.parametrize(
    ("overrides", "size"),
    [
        ({}, (800, 1344)),
        ({"data.scale": "1000,600"}, (608, 1024)),
        ({"data.scale_jitter": "0.5,1.5"}, (1216, 2016)),
        ({"data.keep_aspect": "false"}, (800, 1344)),
    ],
)
def test_the_largest_batch_follows_from_the_scale(overrides: dict[str, str], size: tuple[int, int]) -> None:
    recipe = config.apply_overrides(read_recipe("faster_rcnn_r50_fpn_1x"), overrides)
    assert largest_size(recipe.data) == size


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", COUNTED)
def test_the_table_has_what_a_step_costs(name: str) -> None:
    recipe = read_recipe(name)
    assert cost.known_cost(recipe) == count_step(recipe).cost, "run `make costs`"


def test_the_table_has_every_recipe_of_kubedet() -> None:
    assert all(cost.known_cost(read_recipe(name)) for name in RECIPES)


@pytest.mark.parametrize(
    ("field", "value", "is_known"),
    [
        ("optimizer.lr", "0.01", True),
        ("schedule.epochs", "3", True),
        ("global_batch", "64", True),
        ("precision", "fp32", True),
        ("precision", "bf16", False),
        ("data.scale", "640,480", False),
        ("data.classes", "car,bus", False),
        ("model.backbone.stage_blocks", "3,4,23,3", False),
        ("optimizer.momentum", "0", False),
    ],
)
def test_the_table_answers_only_for_changes_that_cost_nothing(field: str, value: str, is_known: bool) -> None:
    recipe = config.apply_overrides(read_recipe("mask_rcnn_r50_fpn_1x"), {field: value})
    assert (cost.known_cost(recipe) is not None) is is_known


def test_more_images_cost_about_what_the_table_foretells() -> None:
    recipe = config.apply_overrides(
        read_recipe("faster_rcnn_r50_fpn_1x"), {"data.images_per_process": "4", "global_batch": "32"}
    )
    counted, foretold = count_step(recipe).cost, cost.known_cost(recipe)
    assert foretold is not None
    assert counted.memory.fixed == foretold.memory.fixed
    assert counted.memory.total <= foretold.memory.total <= 1.05 * counted.memory.total
    assert foretold.forward.flops == pytest.approx(counted.forward.flops, rel=0.01)


def test_lower_precision_keeps_less_for_the_backward_pass() -> None:
    recipe = read_recipe("ssd300_voc")
    exact = count_step(recipe).cost.memory
    lower = count_step(replace(recipe, precision="bf16")).cost.memory
    assert lower.fixed == exact.fixed
    assert lower.activations < 0.8 * exact.activations
