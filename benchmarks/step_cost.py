"""What a training step costs, counted without a GPU: operations, bytes, peak memory, waits; prints JSON.

The step runs on fake tensors at full size: forward, backward, clipping where the recipe clips, and the fused
update. An operation is one dispatch, views and empty allocations excepted; on a GPU each is at least one
kernel. Bytes are those of the inputs and outputs of every operation. The peak is that of live storages in
blocks of 512 bytes; buckets of DDP, workspaces and fragmentation come on top. A wait is a call of
non-maximum suppression, whose result has a size that only the data decide. Batches have eight objects an
image, as is usual on COCO.

    python benchmarks/step_cost.py [--only mask_rcnn_r50_fpn_1x ...] [--by-function]
"""

from __future__ import annotations

import argparse
import inspect
import json
import weakref
from collections import Counter
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kubedet_trainer.config import Recipe
from kubedet_trainer.models import host, nms
from kubedet_trainer.recipes import read_recipe
from kubedet_trainer.structures import Batch, Proposals, Targets
from kubedet_trainer.training import optim

RECIPES = (
    "rpn_r50_fpn_1x",
    "faster_rcnn_r50_fpn_1x",
    "mask_rcnn_r50_fpn_1x",
    "fast_mask_rcnn_r50_fpn_1x",
    "retinanet_r50_fpn_1x",
    "cascade_rcnn_r50_fpn_1x",
    "cascade_mask_rcnn_r50_fpn_1x",
    "mask_rcnn_r50_fpn_gn_2x",
    "faster_rcnn_mdconv_c3_c5_r50_fpn_1x",
    "faster_rcnn_mdpool_r50_fpn_1x",
    "ssd300_coco",
)
_PYRAMID_SIZE = (800, 1344)
_OBJECTS = 8
_BLOCK = 512
"""The caching allocator of CUDA rounds each allocation up to a multiple of this."""

_UNCOUNTED = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"} | {
    "device",
    "_record_function_enter_new",
    "_record_function_exit",
}
"""Allocations, and what only asks or marks."""


class StepCost(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's hook of subclasses
    """Counts what is dispatched while it is active."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.functions: Counter[str] = Counter()
        self.bytes = 0
        self.live = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count it."""
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self.watch(tensor)
        name = func.overloadpacket.__name__
        if not func.is_view and name not in _UNCOUNTED:
            self.functions[_calling_function()] += 1
            self.bytes += sum(tensor.nbytes for tensor in _tensors((args, kwargs, result)))
        return result

    def watch(self, tensor: Tensor) -> None:
        """Count the storage of `tensor` as live until it is freed."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = -(-storage.nbytes() // _BLOCK) * _BLOCK
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def main() -> None:
    """Count every recipe and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=RECIPES, metavar="RECIPE", help="of the zoo")
    parser.add_argument(
        "--by-function", action="store_true", help="operations of each function of the trainer"
    )
    arguments = parser.parse_args()
    figures = {name: measure(name, by_function=arguments.by_function) for name in arguments.only}
    print(json.dumps({"benchmark": "step_cost", **figures}, indent=2))


def measure(name: str, *, by_function: bool) -> dict[str, Any]:
    """The figures of the second step of a recipe: the first one makes the momentum."""
    recipe = read_recipe(name)
    waits: list[int] = []

    def half_of(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
        waits.append(len(boxes))
        return torch.arange(len(boxes) // 2, device=boxes.device)

    host.constant.cache_clear()  # fake tensors belong to one mode
    cost = StepCost()
    with (
        mock.patch.object(nms, "nms", half_of),
        mock.patch.object(host, "counts_are_free", return_value=False),
        FakeTensorMode(),
    ):
        model = recipe.build(num_classes=81).train()
        optimizer = optim.build_optimizer(model, config=recipe.optimizer)
        batch, generator = make_batch(recipe), torch.Generator()
        for part in (model.state_dict(), vars(batch), vars(batch.targets)):
            for tensor in _tensors(dict(part)):
                cost.watch(tensor)
        for is_counted in (False, True):
            if is_counted:
                waits.clear()
                for state in optimizer.state.values():
                    cost.watch(state["momentum_buffer"])
                cost.__enter__()  # type: ignore[no-untyped-call]
            losses = model(batch.images, batch.targets, generator)
            forward = cost.functions.total()
            total = torch.stack([value for key, value in losses.items() if "loss" in key]).sum()
            optimizer.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
            backward = cost.functions.total() - forward
            optim.clip_gradients(model.parameters(), max_norm=recipe.optimizer.clip_norm)
            optimizer.step()
            del losses, total
        cost.__exit__(None, None, None)  # type: ignore[no-untyped-call]
    figures = {
        "operations": cost.functions.total(),
        "forward": forward,
        "backward": backward,
        "waits": len(waits),
        "gigabytes": round(cost.bytes / 1e9, 1),
        "peak_mib": round(cost.peak / 2**20),
    }
    return figures | ({"by_function": dict(cost.functions.most_common())} if by_function else {})


def _calling_function() -> str:
    """The innermost function of the trainer that is running, as its file and name."""
    frame = inspect.currentframe()
    while frame is not None:
        _, package, file = frame.f_code.co_filename.partition("kubedet_trainer/")
        if package:
            return f"{file}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "backward and update"


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def make_batch(recipe: Recipe) -> Batch:
    """Noise with some objects, as many images as the recipe has for a process."""
    data = recipe.data
    count = data.images_per_process
    height, width = _PYRAMID_SIZE if data.keep_aspect else data.scale
    sizes = torch.tensor([[height, width]] * count)
    proposals = None
    if data.num_proposals is not None:
        boxes = _make_boxes(count, data.num_proposals, height, width)
        scores = torch.ones(boxes.shape[:2])
        proposals = Proposals(boxes=boxes, scores=scores, valid=scores > 0)
    masks = torch.randint(0, 256, (count, _OBJECTS, height, -(-width // 8)), dtype=torch.uint8)
    return Batch(
        pixels=torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8),
        sizes=sizes,
        original_sizes=sizes,
        scale_factors=torch.ones(count, 4),
        image_ids=torch.arange(count),
        targets=Targets(
            boxes=_make_boxes(count, _OBJECTS, height, width),
            labels=torch.randint(1, 21, (count, _OBJECTS)),
            valid=torch.ones(count, _OBJECTS, dtype=torch.bool),
            masks=masks if data.masks else None,
        ),
        proposals=proposals,
    )


def _make_boxes(count: int, slots: int, height: int, width: int) -> torch.Tensor:
    extent = torch.tensor([width, height])
    begins = torch.rand(count, slots, 2) * extent * 0.6
    return torch.cat([begins, begins + 16 + torch.rand(count, slots, 2) * extent * 0.3], dim=-1)


if __name__ == "__main__":
    main()
