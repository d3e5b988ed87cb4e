"""Our detectors against the numbers of the 2019 code, from features to gradients."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import cv2  # noqa: F401 (it and torchvision set environment variables when first imported)
import numpy as np
import pytest
import torch
from torch import Tensor

import golden_files
from golden import two_stage_adapter
from golden.case import Case, Reading
from golden.comparison import Array, Differences, sample, samples, statistics
from golden.dense_adapter import DenseDetector
from golden.records import Found
from kubedet_trainer.models.two_stage import Rpn

ARCHITECTURES = (
    "cascade_rcnn_r50_fpn",
    "fast_rcnn_r50_fpn",
    "faster_rcnn_dconv_c3_c5_r50_fpn",
    "faster_rcnn_dpool_r50_fpn",
    "faster_rcnn_mdconv_c3_c5_r50_fpn",
    "faster_rcnn_r50_fpn",
    "mask_rcnn_r50_fpn",
    "mask_rcnn_r50_fpn_gn",
    "retinanet_r50_fpn",
    "rpn_r50_fpn",
    "ssd300_coco",
)
FEATURES, HEADS, MASKS, AREA, GRADIENTS = 1e-4, 2e-4, 1e-3, 1e-2, 2e-3
"""Relative errors allowed; README, "Tolerances", has those that were measured."""
OWN_LOSSES, LOSSES = 2e-2, 5e-4
"""Losses on the detector's own proposals, where a few samples may change, and on the golden ones."""
BOXES = {"box": 0.1, "score": 2e-3}
OWN_SHARE, SHARE = 0.95, 0.98
"""How many detections must match after the detector's own proposals, and without such."""


@pytest.fixture(scope="module", params=ARCHITECTURES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def test_the_detector_has_the_golden_parameters(case: Case) -> None:
    parameters = list(case.detector.parameters())
    found = {
        "n_keys": len(case.detector.state_dict()),
        "n_params": sum(parameter.numel() for parameter in parameters),
        "n_trainable": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        "weights_abs_sum": pytest.approx(case.weights_sum, rel=1e-6),
    }

    assert found == {name: case.info[name] for name in found}


@torch.inference_mode()
def test_inference_reproduces_the_goldens(case: Case) -> None:
    case.detector.eval()
    differences = Differences()

    for image in case.info["images"]:
        pixels = case.image(image)[None]
        _compare_input(differences, case.numbers, f"{image}/input", pixels)
        _compare_features(differences, case, image, pixels)
        if f"{image}/proposals/boxes" in case.numbers:
            _compare_proposals(differences, case, image, pixels)
        if f"{image}/fixed/cls/0" in case.numbers:
            _compare_fixed_regions(differences, case, image, pixels)
        if f"{image}/det/boxes" in case.numbers:
            _compare_detections(differences, case, image, pixels)

    assert differences == []
    assert {name.partition("/")[2] for name in case.numbers.unread} <= {"mask/rle5"}  # its areas are compared


def test_training_reproduces_the_goldens(case: Case) -> None:
    case.detector.train()
    case.detector.zero_grad()
    differences = Differences()
    info, batch = json.loads(str(case.training["info"])), case.batch()
    _compare_input(differences, case.training, "train/img", batch["img"])

    losses = case.losses(batch)
    if "train/proposals/0" in case.training:
        _compare_losses(differences, losses, info, within=OWN_LOSSES)
        losses = case.losses(batch, case.training_pair("proposals"))
    _compare_losses(differences, losses, info, within=LOSSES)
    torch.autograd.backward([value.sum() for values in losses.values() for value in values])
    _compare_gradients(differences, case, info)

    assert differences == []
    assert case.training.unread == set()


def _compare_input(differences: Differences, numbers: Reading, name: str, pixels: Tensor) -> None:
    differences.close(f"{name}/samp", sample(pixels, 64), numbers[f"{name}/samp"], within=1e-6)
    differences.close(f"{name}/stat", statistics(pixels), numbers[f"{name}/stat"], within=1e-6)


def _compare_features(differences: Differences, case: Case, image: str, pixels: Tensor) -> None:
    """Each level of the backbone, of the neck, and of the head that sees the whole image."""
    for part, levels in case.features(pixels).items():
        for index, level in enumerate(levels):
            name = f"{image}/{part}/{index}"
            expected = {kind: case.numbers[f"{name}/{kind}"] for kind in ("shape", "stat", "samp")}
            largest = expected["stat"][2]
            differences.equal(f"{name}/shape", list(level.shape[1:]), expected["shape"].tolist())
            for kind, found in (("samp", sample(level, 32)), ("stat", statistics(level))):
                differences.close(
                    f"{name}/{kind}", found / largest, expected[kind] / largest, within=FEATURES, floor=1.0
                )


def _compare_proposals(differences: Differences, case: Case, image: str, pixels: Tensor) -> None:
    meta = case.meta(image)
    found = two_stage_adapter.proposals(case.region_detector, pixels, meta).double().numpy()
    count = int(case.numbers[f"{image}/proposals/num"])
    if abs(len(found) - count) > max(5, count // 100):
        differences.append(f"{image}/proposals: got {len(found)}, want about {count}")
    best = {"proposals/boxes": found[:300]}
    if f"{image}/result/top100" in case.numbers:
        best["result/top100"] = found[:300] / [*(meta["scale_factor"],) * 4, 1]
    for name, boxes in best.items():
        expected = case.numbers[f"{image}/{name}"][:100]
        differences.matched(
            f"{image}/{name}", _of_one_class(boxes), _of_one_class(expected), share=OWN_SHARE, **BOXES
        )


def _of_one_class(boxes: Array) -> tuple[Array, Array]:
    return boxes, np.zeros(len(boxes))


def _compare_fixed_regions(differences: Differences, case: Case, image: str, pixels: Tensor) -> None:
    """The same 16 regions through every head, so that no proposal that differs can hide an error."""
    regions = torch.from_numpy(golden_files.read_numbers("common")["fixed_rois"])
    detector = case.region_detector
    assert not isinstance(detector, Rpn)
    found = two_stage_adapter.fixed_regions(detector, pixels, regions)
    values = {
        "roi_feat/samp": (samples(found.features, 16), FEATURES),
        "roi_feat/stat": (np.stack([statistics(region) for region in found.features]), FEATURES),
    }
    for stage, (classes, deltas) in enumerate(zip(found.classes, found.deltas, strict=True)):
        values[f"cls/{stage}"] = (classes.double().numpy(), HEADS)
        values[f"reg/{stage}"] = (deltas[:, :24].double().numpy(), HEADS)
        values[f"reg_samp/{stage}"] = (sample(deltas, 64), HEADS)
    for stage, masks in enumerate(found.masks):
        values[f"mask_logits_samp/{stage}"] = (samples(masks, 16), HEADS)
        values[f"mask_logits_stat/{stage}"] = (np.stack([statistics(region) for region in masks]), HEADS)
    for name, (value, within) in values.items():
        if f"{image}/fixed/{name}" in case.numbers:
            expected = case.numbers[f"{image}/fixed/{name}"]
            differences.close(f"{image}/fixed/{name}", value, expected, within=within)


def _compare_detections(differences: Differences, case: Case, image: str, pixels: Tensor) -> None:
    expected = case.numbers[f"{image}/det/boxes"], case.numbers[f"{image}/det/labels"]
    for name, proposals, share in _proposal_sources(case, image):
        found = case.detect(pixels, case.meta(image), proposals)
        boxes, labels = found.boxes.double().numpy(), found.labels.numpy()
        differences.equal(f"{image}/det ({name})", len(boxes), len(expected[0]))
        differences.matched(f"{image}/det ({name})", (boxes, labels), expected, share=share, **BOXES)
        if found.masks is not None:
            _compare_masks(differences, case, image, found)


def _proposal_sources(case: Case, image: str) -> list[tuple[str, Tensor | None, float]]:
    """Where the regions come from, and the share of detections that must then match."""
    if case.architecture.startswith("fast_"):
        return [("proposal file", case.file_proposals(image), SHARE)]
    if isinstance(case.detector, DenseDetector):
        return [("anchors", None, SHARE)]
    own = ("own proposals", None, OWN_SHARE)
    if image != "img0":  # other images have the best 100 proposals only
        return [own]
    return [own, ("golden proposals", torch.from_numpy(case.numbers["img0/proposals/boxes"]), SHARE)]


def _compare_masks(differences: Differences, case: Case, image: str, found: Found) -> None:
    """The probabilities and areas of the first five detections, whose boxes and labels must be there."""
    assert found.masks is not None
    expected = [
        case.numbers[f"{image}/{name}"] for name in ("det/boxes", "det/labels", "mask/prob28", "mask/areas")
    ]
    for index, (box, label, probabilities, area) in enumerate(zip(*expected, strict=False)):
        near = np.abs(found.boxes[:, :4].numpy() - box[:4]).max(axis=1) <= BOXES["box"]
        (hits,) = np.nonzero(near & (found.labels.numpy() == label))
        if len(hits) == 0:
            differences.append(f"{image}/mask/{index}: no such detection")
            continue
        name = f"{image}/mask/{index}"
        differences.close(name, found.masks[hits[0]].numpy(), probabilities, within=MASKS)
        if abs(found.areas[hits[0]] - area) > max(3, AREA * area):
            differences.append(f"{name}: got an area of {found.areas[hits[0]]}, want about {area}")


def _compare_losses(
    differences: Differences,
    losses: Mapping[str, Sequence[Tensor]],
    info: Mapping[str, Any],
    *,
    within: float,
) -> None:
    """Each loss by level or by image, whichever it was in 2019."""
    expected = {name: value for name, value in info["losses_first"].items() if "acc" not in name}
    differences.equal("losses", sorted(losses), sorted(expected))
    for name, values in losses.items():
        found = [float(value.detach().sum()) for value in values]
        differences.close(name, found, np.atleast_1d(expected[name]), within=within, floor=1e-3)


def _compare_gradients(differences: Differences, case: Case, info: Mapping[str, Any]) -> None:
    gradients = {
        name: parameter.grad
        for name, parameter in case.detector.named_parameters()
        if parameter.requires_grad and parameter.grad is not None
    }
    total = math.hypot(*(float(gradient.double().norm()) for gradient in gradients.values()))
    differences.close("norm of all gradients", total, info["grad_total_norm"], within=GRADIENTS)
    for name, norm in info["grad_norm"].items():
        expected = case.training[f"train/grad_samp/{name}"]
        differences.close(f"norm of {name}", float(gradients[name].double().norm()), norm, within=GRADIENTS)
        differences.close(f"gradient of {name}", sample(gradients[name], 8), expected, within=GRADIENTS)
