"""A training step and an inference of our detectors beside torchvision's, as JSON: lower ratios are better.

Both sides have the same weights, images, objects and settings of the zoo (2000 proposals, 512 samples, 100
detections), fixed batch normalisation, and a frozen stem and first stage. A step is forward, backward and
SGD. What each side makes of pixels is part of it, and so is pasting masks, which ours also encodes; theirs
would resize, and gets images of the right size. Ours pads objects to 96 slots, as on COCO. Masks are computed
for positive regions, so 8 objects, as is usual, and a crowd are measured. Times are processor time of one
thread, in the order ours, theirs, theirs, ours, so that a machine that slows down does so for both. Goal: at
most 0.8 of torchvision's. "floor" is the ratio if ours did nothing but its convolutions, matrix products and
the update of weights, which any detector of the same layers needs.

    python benchmarks/models.py [--rounds 4] [--only faster_rcnn ...]
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import profile
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from kubedet_trainer.data import run_lengths
from kubedet_trainer.data.masks import ImageMasks, place_masks
from kubedet_trainer.recipes import read_recipe
from kubedet_trainer.structures import Batch, Targets

GOAL = 0.8
_NUM_CLASSES = 81
_SLOTS = 96
_ORDER = "ours", "theirs", "theirs", "ours"
_NEEDED = re.compile(r"aten::(.*conv.*|mm|addmm|bmm|baddbmm)|Optimizer\.step#.*")
"""What any detector of the same layers has to run."""
_PROPOSALS = {f"rpn_{when}_nms_top_n_{mode}": 2000 for when in ("pre", "post") for mode in ("train", "test")}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A pair of detectors and what they are shown."""

    recipe: str
    build_theirs: Callable[[], nn.Module]
    classifier: str
    """Layers of ours that give out logits."""
    loudness: float
    """Their fresh weights times this find some thousand candidates, as trained ones do."""
    size: tuple[int, int] = (320, 416)
    objects: int = 8


def _their_backbone(**options: Any) -> nn.Module:
    """As torchvision trains it from pretrained weights, which only its builders of pretrained models do."""
    backbone: nn.Module = resnet_fpn_backbone(
        backbone_name="resnet50",
        weights=None,
        norm_layer=FrozenBatchNorm2d,
        trainable_layers=3,
        **options,
    )
    return backbone


def _their_faster_rcnn() -> nn.Module:
    detector: nn.Module = detection.FasterRCNN(
        _their_backbone(), _NUM_CLASSES, **_PROPOSALS, **_scale(320, 416)
    )
    return detector


def _their_mask_rcnn() -> nn.Module:
    detector: nn.Module = detection.MaskRCNN(
        _their_backbone(), _NUM_CLASSES, **_PROPOSALS, **_scale(320, 416)
    )
    return detector


def _their_retinanet() -> nn.Module:
    backbone = _their_backbone(returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(2048, 256))
    detector: nn.Module = detection.RetinaNet(
        backbone, _NUM_CLASSES - 1, detections_per_img=100, **_scale(320, 416)
    )
    return detector


def _their_ssd() -> nn.Module:
    detector: nn.Module = detection.ssd300_vgg16(
        weights=None,
        weights_backbone=None,
        num_classes=_NUM_CLASSES,
        score_thresh=0.02,
        nms_thresh=0.45,
        detections_per_img=200,
    )
    return detector


def _scale(shorter: int, longer: int) -> dict[str, int]:
    return {"min_size": shorter, "max_size": longer}


CASES = {
    "faster_rcnn": Case(
        recipe="faster_rcnn_r50_fpn_1x",
        build_theirs=_their_faster_rcnn,
        classifier="bbox_head.fc_cls",
        loudness=20,
    ),
    "mask_rcnn": Case(
        recipe="mask_rcnn_r50_fpn_1x",
        build_theirs=_their_mask_rcnn,
        classifier="bbox_head.fc_cls",
        loudness=20,
    ),
    "mask_rcnn, crowd": Case(
        recipe="mask_rcnn_r50_fpn_1x",
        build_theirs=_their_mask_rcnn,
        classifier="bbox_head.fc_cls",
        loudness=20,
        objects=_SLOTS,
    ),
    "retinanet": Case(
        recipe="retinanet_r50_fpn_1x",
        build_theirs=_their_retinanet,
        classifier="bbox_head.retina_cls",
        loudness=300,
    ),
    "ssd300": Case(
        recipe="ssd300_coco",
        build_theirs=_their_ssd,
        classifier="bbox_head.cls_convs",
        loudness=0.01,
        size=(300, 300),
    ),
}


def main() -> None:
    """Measure every case and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=4, help="of ours, theirs, theirs, ours")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), help="cases to measure")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures = {name: measure(CASES[name], rounds=arguments.rounds) for name in arguments.only}
    print(json.dumps({"benchmark": "models", "goal": GOAL, **figures}, indent=2))


def measure(case: Case, *, rounds: int) -> dict[str, Any]:
    """Seconds of processor time of a training step and of an inference, and their ratios."""
    torch.manual_seed(0)
    ours, theirs = Ours(case), Theirs(case)
    copy_weights(ours.model, theirs.model)
    training = compare(ours.train_step, theirs.train_step, rounds=rounds)
    ours.model.eval(), theirs.model.eval()
    found = {"ours": ours.detect(), "theirs": theirs.detect()}
    inference = compare(ours.detect, theirs.detect, rounds=rounds)
    return {"training_step": training, "inference": inference, "detections": found}


def compare(ours: Callable[[], Any], theirs: Callable[[], Any], *, rounds: int) -> dict[str, Any]:
    """Medians of both, and the ratio of each round of `_ORDER`."""
    calls = {"ours": ours, "theirs": theirs}
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for name in _ORDER * rounds:
        started = time.process_time()
        calls[name]()
        seconds[name].append(time.process_time() - started)
    in_rounds = [
        [sum(pair) for pair in zip(times[::2], times[1::2], strict=True)] for times in seconds.values()
    ]
    ratios = [own / other for own, other in zip(*in_rounds, strict=True)]
    return {
        **{f"{name}_seconds": round(statistics.median(times), 3) for name, times in seconds.items()},
        "ratio": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "floor": round(statistics.median(ratios) * _needed_part(ours), 3),
    }


def _needed_part(call: Callable[[], Any]) -> float:
    """Which part of the time of a call what `_NEEDED` names takes."""
    with profile() as profiled:
        call()
    events = profiled.key_averages()
    needed = sum(
        # An update is one event with others in it; nothing else that counts has any in it.
        event.cpu_time_total if event.key.startswith("Optimizer") else event.self_cpu_time_total
        for event in events
        if _NEEDED.fullmatch(event.key)
    )
    return float(needed / sum(event.self_cpu_time_total for event in events))


class Ours:
    """Our detector of a case, and one image as the loader would give it."""

    def __init__(self, case: Case) -> None:
        recipe = read_recipe(case.recipe)
        self.model = recipe.build(num_classes=_NUM_CLASSES).train()
        _make_lively(self.model, case)
        self.optimizer = _sgd(self.model)
        self.generator = torch.Generator().manual_seed(0)
        pixels, boxes, labels, masks = make_image(case)
        self.batch = _as_batch(pixels, boxes, labels, masks)

    def train_step(self) -> None:
        """Forward, backward and update."""
        losses = self.model(self.batch.images, self.batch.targets, self.generator)
        _update(self.optimizer, losses.values())

    def detect(self) -> int:
        """How many objects were found; masks are pasted and encoded."""
        (found,) = self.model.detect(self.batch.images, self.batch.scale_factors)
        if found.masks is not None:
            size = tuple(self.batch.original_sizes[0].tolist())
            list(run_lengths.paste(found.masks.numpy(), boxes=found.boxes.numpy(), size=size))
        return len(found.scores)


class Theirs:
    """Torchvision's detector of a case, with the same image as its users give it."""

    def __init__(self, case: Case) -> None:
        self.model = case.build_theirs().train()
        self.optimizer = _sgd(self.model)
        pixels, boxes, labels, masks = make_image(case)
        self.images = [pixels.flip(0).float() / 255]
        outer = boxes + torch.tensor([0, 0, 1, 1])
        first_label = 0 if isinstance(self.model, detection.RetinaNet) else 1
        self.targets = [{"boxes": outer, "labels": labels - 1 + first_label, "masks": masks}]

    def train_step(self) -> None:
        """Forward, backward and update."""
        _update(self.optimizer, self.model(self.images, self.targets).values())

    @torch.no_grad()
    def detect(self) -> int:
        """How many objects were found; masks are pasted."""
        return len(self.model(self.images)[0]["scores"])


def _as_batch(pixels: Tensor, boxes: Tensor, labels: Tensor, masks: Tensor) -> Batch:
    """One image as our loader gives it: objects in the first of `_SLOTS`."""
    empty = _SLOTS - len(boxes)
    height, width = pixels.shape[1:]
    size = torch.tensor([[height, width]])
    codes = [run_lengths.encode(mask) for mask in masks.bool().numpy()]
    shown = ImageMasks(codes=codes, original_size=(height, width), size=(height, width), flip=False)
    return Batch(
        pixels=pixels[None],
        sizes=size,
        original_sizes=size,
        scale_factors=torch.ones(1, 4),
        image_ids=torch.ones(1, dtype=torch.int64),
        targets=Targets(
            boxes=F.pad(boxes, (0, 0, 0, empty))[None],
            labels=F.pad(labels, (0, empty))[None],
            valid=torch.arange(_SLOTS)[None] < len(boxes),
            masks=place_masks([shown], slots=_SLOTS, size=(height, width)),
        ),
    )


def make_image(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """BGR bytes (3, H, W) of noise, (N, 4) boxes, (N,) labels and (N, H, W) masks that fill the boxes."""
    generator = torch.Generator().manual_seed(1)
    height, width = case.size
    pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    begins = torch.rand(case.objects, 2, generator=generator) * torch.tensor([width, height]) * 0.6
    sides = 16 + torch.rand(case.objects, 2, generator=generator) * torch.tensor([width, height]) * 0.3
    boxes = torch.cat([begins, begins + sides], dim=1).round()
    labels = torch.randint(1, _NUM_CLASSES, (case.objects,), generator=generator)
    y, x = torch.arange(height)[:, None], torch.arange(width)
    x1, y1, x2, y2 = boxes[..., None, None].unbind(1)
    return pixels, boxes, labels, ((x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)).byte()


def copy_weights(ours: nn.Module, theirs: nn.Module) -> None:
    """Give both the same weights: they list those of one shape in the same order, the L2 norm's excepted."""
    by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
    for _, value in _ordered(ours):
        by_shape[value.shape].append(value)
    for _, value in _ordered(theirs):
        value.copy_(by_shape[value.shape].pop(0))
    assert not any(by_shape.values())


def _ordered(model: nn.Module) -> list[tuple[str, Tensor]]:
    entries = [(name, value) for name, value in model.state_dict().items() if value.shape]
    return sorted(entries, key=lambda entry: entry[0].endswith(("l2_norm.weight", "scale_weight")))


@torch.no_grad()
def _make_lively(model: nn.Module, case: Case) -> None:
    """Fresh weights grow from block to block, and find nothing."""
    for name, weight in model.named_parameters():
        if name.endswith("bn3.weight"):
            weight.mul_(0.2)
        if name.startswith(case.classifier) and name.endswith("weight"):
            weight.mul_(case.loudness)


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return torch.optim.SGD(weights, lr=1e-6, momentum=0.9, weight_decay=1e-4)


def _update(optimizer: torch.optim.Optimizer, losses: Iterable[Tensor]) -> None:
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(torch.stack(list(losses)).sum())
    optimizer.step()


if __name__ == "__main__":
    main()
