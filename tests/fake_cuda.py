"""A GPU that does not exist: detectors train and detect on fake CUDA tensors, of shapes without values.

torch's `FakeTensorMode` refuses by itself whatever mixes devices, reads a value on the host, or has a result
whose shape the values decide. The guard here also refuses copies to and from the device. What detectors may
do is listed in `PLACES`; a substitute stands for what the data would decide there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from types import SimpleNamespace
from typing import Any, TypeVar, cast
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node
from torch.utils._python_dispatch import TorchDispatchMode

from kubedet_trainer.config import Recipe, plan_batch
from kubedet_trainer.dist import World
from kubedet_trainer.models import host
from kubedet_trainer.models.detector import Detector
from kubedet_trainer.structures import Batch, Detections, Masks, Proposals, Targets
from kubedet_trainer.telemetry.monitor import ForwardTimer, LossMonitor, StepTimer
from kubedet_trainer.telemetry.report import TrainingLength
from kubedet_trainer.training import loop, optim
from kubedet_trainer.training.setup import Run
from kubedet_trainer.training.state import TrainState
from trainer_builders import own_frames, sample_by

DEVICE = torch.device("cuda", 0)
NUM_CLASSES = 21
_SLOTS = 8
_FOUND = 5
"""What a substitute finds wherever the data would decide."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A function of ours that may wait for the device or copy to it, and why."""

    file: str
    function: str
    operators: frozenset[str]
    why: str


PLACES = (
    Place(
        file="models/nms.py",
        function="_all_at_once",
        operators=frozenset({"torchvision::nms"}),
        why="only the data decides how many proposals survive",
    ),
    Place(
        file="models/nms.py",
        function="suppress_per_class",
        operators=frozenset({"aten::nonzero", "aten::index", "torchvision::nms"}),
        why="detections of an image, at its end",
    ),
    Place(
        file="models/two_stage.py",
        function="detect",
        operators=frozenset({"aten::index"}),
        why="proposals of an image as detections, at its end",
    ),
    Place(
        file="models/deformable.py",
        function="_predict",
        operators=frozenset({"aten::nonzero"}),
        why="detection alone: each level's layers see the regions of their level",
    ),
)

_COPIES = frozenset({"aten::_to_copy", "aten::copy_", "aten::lift_fresh"})


class Refused(AssertionError):
    """Something that no place may do; the message names the line."""


class Guard(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's hook of subclasses
    """Refuses copies and what the data decide, but for `PLACES`, and keeps the names of all operators."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.operators: set[str] = set()
        self.used: set[Place] = set()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.name().split(".")[0]
        self.operators.add(name)
        kwargs = kwargs or {}
        if name in _COPIES and _changes_device(name, args, kwargs):
            self._allow(name)
        elif name == "aten::_fused_sgd_":  # torch does not know how to fake it
            assert {tensor.device for tensors in args[:3] for tensor in tensors} == {DEVICE}
            return None
        elif name == "torchvision::nms":
            self._allow(name)
            return args[0].new_zeros(min(_FOUND, len(args[0])), dtype=torch.int64)
        elif name == "aten::nonzero":
            self._allow(name)
            return args[0].new_zeros(max(1, len(args[0]) // 4), args[0].dim(), dtype=torch.int64)
        elif name == "aten::index" and any(_is_mask(index) for index in args[1]):
            self._allow(name)
            chosen = [
                index.new_zeros(_FOUND, dtype=torch.int64) if _is_mask(index) else index for index in args[1]
            ]
            return func(args[0], chosen)
        return func(*args, **kwargs)

    def _allow(self, name: str) -> None:
        frames = list(own_frames())
        for place in PLACES:
            if name in place.operators and any(
                frame.f_code.co_filename.endswith(place.file) and frame.f_code.co_name == place.function
                for frame in frames
            ):
                self.used.add(place)
                return
        at = frames[0]
        raise Refused(f"{at.f_code.co_filename}:{at.f_lineno} in {at.f_code.co_name}: {name}")


def _changes_device(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    if name == "aten::lift_fresh":
        return bool(args[0].device == DEVICE)
    source, target = (args[1], args[0].device) if name == "aten::copy_" else (args[0], kwargs.get("device"))
    return target is not None and source.device != target and source.device.type != "meta"


def _is_mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype == torch.bool


# --------------------------------------------------------------------------- gradients


def _backward(loss: Tensor) -> None:
    """What torch's engine does, node by node: it asks the driver for streams, and there is none."""
    assert loss.grad_fn is not None
    waiting_for = _count_uses(loss.grad_fn)
    pending: dict[Node, list[Tensor | None]] = {loss.grad_fn: [torch.ones_like(loss)]}
    ready = [loss.grad_fn]
    with torch.no_grad():
        while ready:
            node = ready.pop()
            gradients = _call(node, pending.pop(node))
            for (target, number), gradient in zip(node.next_functions, gradients, strict=True):
                if target is None:
                    continue
                slots = pending.setdefault(target, [None] * len(_inputs(target)))
                if gradient is not None:
                    slots[number] = _add(slots[number], _fitted(gradient, _inputs(target)[number]))
                waiting_for[target] -= 1
                if waiting_for[target] == 0:
                    ready.append(target)


def _count_uses(root: Node) -> Counter[Node]:
    """How many nodes give each node a gradient."""
    counts: Counter[Node] = Counter()
    seen, left = {root}, [root]
    while left:
        for target, _ in left.pop().next_functions:
            if target is not None:
                counts[target] += 1
                if target not in seen:
                    seen.add(target)
                    left.append(target)
    return counts


def _inputs(node: Node) -> Sequence[Any]:
    return cast(Sequence[Any], node._input_metadata)


def _call(node: Node, gradients: list[Tensor | None]) -> Sequence[Tensor | None]:
    if all(gradient is None for gradient in gradients):
        return [None] * len(node.next_functions)
    if (weight := getattr(node, "variable", None)) is not None:
        weight.grad = _add(weight.grad, gradients[0])
        return []
    apply = node.apply if isinstance(node, BackwardCFunction) else cast(Any, node)
    found = apply(*gradients)
    every = found if isinstance(found, tuple) else (found,)
    of_tensors = every[: len(node.next_functions)]  # functions of ours take numbers last
    assert all(gradient is None for gradient in every[len(of_tensors) :])
    return of_tensors


def _fitted(gradient: Tensor, wanted: Any) -> Tensor:
    """A gradient as its tensor was: reduced over what was broadcast, in its precision."""
    assert gradient.device == wanted.device, "a gradient on another device than its tensor"
    return gradient.sum_to_size(wanted.shape).to(wanted.dtype)


def _add(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second


# --------------------------------------------------------------------------- a machine, a recipe, a batch


@contextmanager
def fake_gpu() -> Iterator[None]:
    """Tensors on `DEVICE` can be made and computed with; their values are not known."""
    host.constant.cache_clear()
    with (
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False),
        mock.patch("torch.cuda.is_bf16_supported", return_value=True),
        mock.patch.object(Tensor, "backward", _backward),
        FakeTensorMode(),
    ):
        yield
    host.constant.cache_clear()


_SMALL: dict[str, Any] = {
    "stage_blocks": (1, 1, 1, 1),
    "stem_channels": 16,
    "norm_groups": 4,
    "channels": 32,
    "stage_convs": (1, 1, 1, 1, 1),
    "stage_channels": (8, 8, 8, 16, 16),
    "fc_channels": 32,
    "extra_channels": 16,
    "offset_channels": 16,
    "num_samples": 16,
    "nms_pre": 64,
    "nms_post": 64,
    "num_proposals": 64,
    "max_detections": 16,
}

_Options = TypeVar("_Options")


def small(options: _Options) -> _Options:
    """Options of a detector with everything that is only large made small."""
    changes: dict[str, Any] = {}
    for item in fields(cast(Any, options)):
        value = getattr(options, item.name)
        if is_dataclass(value):
            changes[item.name] = small(value)
        elif item.name in _SMALL and value is not None:
            changes[item.name] = _SMALL[item.name]
    return replace(cast(Any, options), **changes)  # type: ignore[no-any-return]


def build(recipe: Recipe) -> Detector:
    """The detector of `recipe` on the device, ready to train."""
    with torch.device(DEVICE):
        return recipe.build(num_classes=NUM_CLASSES).train()


def make_batch(recipe: Recipe, *, size: tuple[int, int]) -> Batch:
    """A batch on the device, as large as the recipe has it, of images of (height, width) `size`."""
    with torch.device(DEVICE):
        return _make_batch(recipe, size=size)


def _make_batch(recipe: Recipe, *, size: tuple[int, int]) -> Batch:
    data = recipe.data
    count, (height, width) = data.images_per_process, size if data.keep_aspect else data.scale[::-1]
    boxes = torch.zeros(count, _SLOTS, 4)
    places = torch.int64
    masks = Masks(
        run_ends=torch.zeros(1024, dtype=places),
        starts=torch.zeros(count, _SLOTS, dtype=places),
        rows=torch.zeros(count, height, dtype=places),
        columns=torch.zeros(count, width, dtype=places),
    )
    proposals = None
    if (slots := data.num_proposals) is not None:
        scores = torch.zeros(count, slots)
        proposals = Proposals(boxes=torch.zeros(count, slots, 4), scores=scores, valid=scores > 0)
    return Batch(
        pixels=torch.zeros(
            count, 3, height, width, dtype=torch.uint8 if data.augmentation == "flip" else torch.float32
        ),
        sizes=torch.ones(count, 2, dtype=torch.int64),
        original_sizes=torch.ones(count, 2, dtype=torch.int64),
        scale_factors=torch.ones(count, 4),
        image_ids=torch.zeros(count, dtype=torch.int64),
        targets=Targets(
            boxes=boxes,
            labels=torch.zeros(count, _SLOTS, dtype=torch.int64),
            valid=torch.zeros(count, _SLOTS, dtype=torch.bool),
            masks=masks if data.masks else None,
        ),
        proposals=proposals,
    )


class _Generator:
    """Stands for a generator on the device, which only a driver can make."""

    device = DEVICE

    def manual_seed(self, _seed: int) -> None:
        pass


def _draw(shape: torch.Size, _generator: torch.Generator) -> Tensor:
    return torch.rand(shape, device=DEVICE)


def prepare_run(recipe: Recipe, detector: Detector) -> Run:
    """What the loop's step needs of a run of `detector` on the device."""
    sample_by(detector, _draw)
    images = recipe.data.images_per_process
    batch = plan_batch(global_batch=images, images_per_process=images, world_size=1)
    run = SimpleNamespace(
        recipe=recipe,
        world=World(device=DEVICE),
        data=SimpleNamespace(batch=batch),
        state=TrainState(
            model=detector,
            optimizer=optim.build_optimizer(detector, config=recipe.optimizer),
            scaler=torch.amp.GradScaler("cuda", enabled=recipe.precision == "fp16"),
            global_batch=batch.global_batch,
        ),
        model=detector,
        length=TrainingLength(total_iterations=1000, iterations_per_epoch=100, evaluations=0),
        reporter=SimpleNamespace(record_iteration=lambda *_, **__: None),
        saver=SimpleNamespace(release=lambda: None),
        monitor=LossMonitor(DEVICE),
        forwards=ForwardTimer(torch.device("cpu")),  # events exist on real devices only
        generator=_Generator(),
        first_iteration=0,
        timer=StepTimer(),
    )
    return cast(Run, run)


def train_step(run: Run, batch: Batch) -> Guard:
    """One step of the loop under the guard, which it returns."""
    guard = Guard()
    with guard:
        loop._step(run, iter([batch]))
    return guard


def detect(detector: Detector, batch: Batch) -> tuple[list[Detections], Guard]:
    """What `detector` finds in a batch, and the guard under which it looked."""
    detector.eval()
    guard = Guard()
    with torch.inference_mode(), guard:
        found = detector.detect(batch.images, batch.scale_factors)
    detector.train()
    return found, guard


def refused(function: Callable[[], object]) -> str:
    """The message by which the guard or torch refuses `function`; fails where neither does."""
    try:
        with Guard():
            function()
    except (Refused, RuntimeError) as error:
        return str(error)
    raise AssertionError("nothing was refused")
