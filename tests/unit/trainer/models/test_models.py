"""Every detector: its state dict, its losses, its gradients, its detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import trainer_builders
from kubedet_trainer.models.backbones.resnet import Bottleneck
from kubedet_trainer.models.detector import Detector
from kubedet_trainer.models.options.task import Task
from kubedet_trainer.models.two_stage import RoiDetector
from kubedet_trainer.recipes import read_recipe
from kubedet_trainer.structures import Targets

ON_COCO = 81
TWO_OBJECTS = trainer_builders.TWO_OBJECTS


def _on_meta(recipe_name: str) -> Detector:
    model = read_recipe(recipe_name).model
    with torch.device("meta"):
        return model.build(Task(num_classes=ON_COCO))


def _losses(
    detector: nn.Module, architecture: str, targets: Targets, *, seed: int = 0
) -> dict[str, torch.Tensor]:
    images = trainer_builders.make_images(architecture)
    losses: dict[str, torch.Tensor] = detector.train()(images, targets, torch.Generator().manual_seed(seed))
    return losses


def test_stem_and_first_stage_are_frozen_and_statistics_stay_in_evaluation() -> None:
    backbone = _on_meta("faster_rcnn_r50_fpn_1x").train().get_submodule("backbone")

    frozen = {name.split(".")[0] for name, weight in backbone.named_parameters() if not weight.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"}
    assert sum(weight.numel() for weight in backbone.parameters() if not weight.requires_grad) == 225_344
    assert not any(module.training for module in backbone.modules() if isinstance(module, nn.BatchNorm2d))


@pytest.mark.parametrize(("style", "strides"), [("", [(1, 1), (2, 2)]), ("_caffe", [(2, 2), (1, 1)])])
def test_style_decides_which_convolution_carries_the_stride(
    style: str, strides: list[tuple[int, int]]
) -> None:
    block = _on_meta(f"faster_rcnn_r50{style}_fpn_1x").get_submodule("backbone.layer2.0")

    assert isinstance(block, Bottleneck)
    assert [block.conv1.stride, block.conv2.stride] == strides


@pytest.mark.parametrize("architecture", trainer_builders.SMALL)
def test_losses_are_finite_scalars_that_only_the_generator_decides(architecture: str) -> None:
    detector = trainer_builders.make_detector(architecture)
    samples = any(hasattr(part, "sampler") or hasattr(part, "region_sampler") for part in detector.modules())
    targets = trainer_builders.make_targets([TWO_OBJECTS, TWO_OBJECTS[:1]])

    first, again, other = (_losses(detector, architecture, targets, seed=seed) for seed in (0, 0, 1))

    assert all("loss" in name and value.shape == () for name, value in first.items())
    assert all(torch.isfinite(value) for value in first.values())
    assert first == again
    assert (first != other) == samples


@pytest.mark.parametrize("architecture", trainer_builders.SMALL)
@pytest.mark.parametrize("boxes", [[TWO_OBJECTS, []], [[], []]], ids=["one image empty", "all images empty"])
def test_every_parameter_takes_part_whatever_the_ground_truth(
    architecture: str, boxes: list[list[list[float]]]
) -> None:
    detector = trainer_builders.make_detector(architecture)

    losses = _losses(detector, architecture, trainer_builders.make_targets(boxes))
    torch.autograd.backward(list(losses.values()))

    for name, weight in detector.named_parameters():
        assert weight.grad is not None, f"{name} would stall distributed training"
        assert torch.isfinite(weight.grad).all(), name


@pytest.mark.parametrize("architecture", trainer_builders.SMALL)
def test_empty_slots_change_nothing(architecture: str) -> None:
    detector = trainer_builders.make_detector(architecture)
    few, many = (trainer_builders.make_targets([TWO_OBJECTS, []], slots=slots) for slots in (2, 9))
    many.boxes[~many.valid] = torch.tensor([0.0, 0.0, 60.0, 60.0])
    trainer_builders.sample_by(detector)  # random numbers would move with the number of slots

    torch.testing.assert_close(_losses(detector, architecture, few), _losses(detector, architecture, many))


class _Shapes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's hook of subclasses
    """Records the shapes that operators give out, suppression's own excepted."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.seen: list[tuple[str, list[tuple[int, ...]]]] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not trainer_builders.may_wait():
            shapes = [tuple(leaf.shape) for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
            self.seen.append((func.name(), shapes))
        return result


@pytest.mark.parametrize("architecture", trainer_builders.SMALL)
def test_no_shape_of_the_training_step_depends_on_the_data(architecture: str) -> None:
    detector = trainer_builders.make_detector(architecture).train()
    recorded = []
    scenes: list[list[list[list[float]]]] = [[TWO_OBJECTS, TWO_OBJECTS], [TWO_OBJECTS[:1], []], [[], []]]
    for seed, boxes in enumerate(scenes):
        images = trainer_builders.make_images(architecture, seed=seed)
        targets = trainer_builders.make_targets(boxes)
        detector(images, targets, torch.Generator().manual_seed(0))
        detector.zero_grad()
        with trainer_builders.as_on_gpu(), _Shapes() as shapes:
            losses = detector(images, targets, torch.Generator().manual_seed(0))
            torch.autograd.backward(list(losses.values()))
        recorded.append(shapes.seen)

    assert recorded[0] == recorded[1] == recorded[2]


@pytest.mark.parametrize("architecture", trainer_builders.SMALL)
def test_detections_are_in_pixels_of_the_original_image_best_first(architecture: str) -> None:
    detector = trainer_builders.make_detector(architecture, num_classes=4).eval()
    trainer_builders.accept_any_score(detector)
    images = trainer_builders.make_images(architecture)

    resized = detector.detect(images, torch.ones(2, 4))
    original = detector.detect(images, torch.tensor([2.0, 0.5])[:, None].expand(2, 4))

    assert len(resized) == len(original) == 2
    for found, scaled, factor in zip(resized, original, (2, 0.5), strict=True):
        assert len(found.boxes) == len(found.scores) == len(found.labels) > 0
        assert found.labels.dtype == torch.int64
        assert 1 <= found.labels.min() <= found.labels.max() <= 3
        assert (found.scores.diff() <= 0).all()
        assert found.boxes.min() >= 0
        assert scaled.boxes.max() <= (images.pixels.shape[3] - 1) / factor


def test_detection_of_faster_rcnn_is_limited_and_above_the_threshold() -> None:
    detector = trainer_builders.make_one(RoiDetector, "faster_rcnn").eval()
    head = detector.bbox_head
    head.options = replace(head.options, max_detections=3)

    (found, _) = detector.detect(trainer_builders.make_images(), torch.ones(2, 4))
    head.options = replace(head.options, score_threshold=found.scores[1].item())
    (fewer, _) = detector.detect(trainer_builders.make_images(), torch.ones(2, 4))

    assert len(found.scores) == 3
    assert len(fewer.scores) == (found.scores > found.scores[1]).sum()


@pytest.mark.parametrize("architecture", trainer_builders.SMALL)
def test_detector_trains_in_lower_precision_with_losses_in_float32(architecture: str) -> None:
    detector = trainer_builders.make_detector(architecture)

    with torch.autocast("cpu", torch.bfloat16):
        losses = _losses(detector, architecture, trainer_builders.make_targets([TWO_OBJECTS, []]))

    assert all(value.dtype == torch.float32 and torch.isfinite(value) for value in losses.values())


class _CastWeights(TorchFunctionMode):
    """Notes the weights that autocast would cast for an operator, by whether gradients are wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[bool, set[nn.Parameter]] = {True: set(), False: set()}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.__name__ in ("linear", "conv2d", "conv_transpose2d", "einsum", "matmul"):
            weights = [value for value in tree_leaves((args, kwargs)) if isinstance(value, nn.Parameter)]
            self.seen[torch.is_grad_enabled()].update(weight for weight in weights if weight.requires_grad)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("architecture", trainer_builders.SMALL)
def test_no_weight_is_cast_without_a_gradient_and_then_used_with_one(architecture: str) -> None:
    """Older versions of torch take the copy that there is, and the weight learns nothing."""
    detector = trainer_builders.make_detector(architecture)

    with _CastWeights() as casts:
        _losses(detector, architecture, trainer_builders.make_targets([TWO_OBJECTS, []]))

    shared = casts.seen[True] & casts.seen[False]
    assert [name for name, weight in detector.named_parameters() if weight in shared] == []
