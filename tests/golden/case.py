"""One architecture of the goldens: its detector with golden weights, and the numbers it must reproduce."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import golden_files
import trainer_builders
from golden import dense_adapter, two_stage_adapter, weights
from golden.dense_adapter import DenseDetector
from golden.records import Found, GoldenBatch, Meta
from golden.two_stage_adapter import RegionDetector
from kubedet_trainer.models.options.task import Task
from kubedet_trainer.recipes import RECIPES, read_recipe

COCO_CLASSES = 81
"""With the background."""


class Case:
    """Built once for all tests of an architecture, whose name is its recipes' without the schedule."""

    def __init__(self, architecture: str) -> None:
        self.architecture = architecture
        self.numbers = Reading(golden_files.read_numbers(architecture))
        self.training = Reading(golden_files.read_numbers(f"{architecture}.train"))
        self.info: dict[str, Any] = json.loads(str(self.numbers["info"]))
        self.detector = _build(architecture)
        self.weights_sum = weights.fill(self.detector, architecture)
        self.is_ssd = architecture.startswith("ssd")

    @property
    def region_detector(self) -> RegionDetector:
        """The detector, which must be one that looks at regions."""
        assert isinstance(self.detector, RegionDetector)
        return self.detector

    def features(self, pixels: Tensor) -> dict[str, Sequence[Tensor]]:
        """The levels of each part, and the raw outputs of the head that sees the whole image."""
        if isinstance(self.detector, DenseDetector):
            return dense_adapter.features(self.detector, pixels)
        return two_stage_adapter.features(self.region_detector, pixels)

    def detect(self, pixels: Tensor, meta: Meta, proposals: Tensor | None) -> Found:
        """The detections of one image, on `proposals` where given."""
        if isinstance(self.detector, DenseDetector):
            return dense_adapter.detect(self.detector, pixels, meta)
        return two_stage_adapter.detect(self.region_detector, pixels, meta, proposals)

    def losses(self, batch: GoldenBatch, proposals: list[Tensor] | None = None) -> dict[str, list[Tensor]]:
        """Each loss by level or by image, whichever it was in 2019."""
        if isinstance(self.detector, DenseDetector):
            return dense_adapter.losses(self.detector, batch)
        return two_stage_adapter.losses(self.region_detector, batch, proposals)

    def meta(self, image: str) -> Meta:
        """Sizes before and after resizing, and the factor or factors between."""
        content: Meta = json.loads(str(self.numbers[f"{image}/meta"]))
        return content

    def image(self, name: str, *, size: tuple[int, int] | None = None) -> Tensor:
        """(3, H, W) normalised pixels with zeros below and right, up to `size` or a multiple of 32."""
        side = self.architecture[3:6] if self.is_ssd else "320"
        image = golden_files.read_inputs()[f"{name}_r{side}"].astype(np.float32)
        settings = self.info["img_norm_cfg"]
        if settings["to_rgb"]:
            image = image[..., ::-1]
        image = (image - np.float32(settings["mean"])) / np.float32(settings["std"])
        height, width = image.shape[:2]
        if size is None:
            size = (height, width) if self.is_ssd else (-(-height // 32) * 32, -(-width // 32) * 32)
        padded = np.zeros((*size, 3), np.float32)
        padded[:height, :width] = image
        return torch.from_numpy(padded.transpose(2, 0, 1).copy())

    def file_proposals(self, image: str) -> Tensor:
        """(300, 5) boxes and scores of the proposal file, as the 2019 loader scaled and clipped them."""
        meta = self.meta(image)
        proposals = golden_files.read_numbers("common")[f"proposals_{image}"].copy()
        height, width = meta["img_shape"][:2]
        proposals[:, :4] *= np.float32(meta["scale_factor"])
        proposals[:, :4] = proposals[:, :4].clip(0, (width, height) * 2)
        return torch.from_numpy(proposals.astype(np.float32))

    def batch(self) -> GoldenBatch:
        """Both training images with their ground truths, as the 2019 loader collated them."""
        height, width = self.training["train/img/shape"][2:]
        batch = GoldenBatch(
            img=torch.stack([self.image(name, size=(height, width)) for name in ("img0", "img1")]),
            metas=json.loads(str(self.training["info"]))["metas"],
            gt_bboxes=self.training_pair("gt_bboxes"),
        )
        for name in ("gt_labels", "gt_masks", "proposals_in"):
            if f"train/{name}/0" in self.training:
                batch[name] = self.training_pair(name)
        return batch

    def training_pair(self, name: str) -> list[Tensor]:
        """The arrays of both training images under this name."""
        return [torch.from_numpy(self.training[f"train/{name}/{index}"]) for index in (0, 1)]


class Reading(dict[str, np.ndarray]):
    """The arrays of a file, and which of them nobody has read."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        super().__init__({name: arrays[name] for name in arrays})
        self.unread = set(self)

    def __getitem__(self, name: str) -> np.ndarray:
        self.unread.discard(name)
        return super().__getitem__(name)


def _build(architecture: str) -> nn.Module:
    names = (architecture, *(f"{architecture}_{schedule}" for schedule in ("1x", "2x")))
    recipe = read_recipe(next(name for name in names if name in RECIPES))
    detector = recipe.model.build(Task(num_classes=COCO_CLASSES))
    trainer_builders.sample_by(detector)
    return detector
