"""Turns images of a split into one batch: read, transformed, placed side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch.utils.data import Dataset

from kubedet_trainer.data import augment, images, transforms
from kubedet_trainer.data.images import Pixels
from kubedet_trainer.data.masks import ImageMasks, place_masks
from kubedet_trainer.data.sampler import Plan, SampleKey
from kubedet_trainer.data.splits import Split
from kubedet_trainer.data.transforms import Pipeline, Sample
from kubedet_trainer.errors import InvalidInput, TrainerError
from kubedet_trainer.structures import Batch, Masks, Proposals, Targets

_FEWEST_SLOTS = 8


@dataclass(frozen=True, kw_only=True)
class Item:
    """One image of a batch to be."""

    image_id: int
    original_size: tuple[int, int]
    """Height and width in the file."""
    sample: Sample
    labels: NDArray[np.int32]
    """(K,) of the sample's first K boxes."""
    proposal_scores: NDArray[np.float32] | None = None
    """(P,) of the sample's other boxes; None where the detector makes its own proposals."""
    masks: ImageMasks | None = None
    """Of the K objects; None where not asked for."""


def collate(
    items: Sequence[Item], *, slots: int, pad_multiple: int, proposal_slots: int | None = None
) -> Batch:
    """Draw images side by side: pixels padded with zeros, boxes and labels padded to `slots`.

    With `proposal_slots` every item must have proposals, at most as many. All lies in one piece of memory.
    """
    samples = [item.sample for item in items]
    sizes = [sample.size for sample in samples]
    size = transforms.padded_size(sizes, multiple=pad_multiple)
    masks = [item.masks for item in items if item.masks is not None]
    dtype = torch.uint8 if samples[0].pixels.dtype == np.uint8 else torch.float32
    # Channels stay next to each other, as OpenCV has them: to part them here would take as long as to resize.
    pixels = torch.empty((len(items), *size, 3), dtype=dtype, device="meta").permute(0, 3, 1, 2)
    batch = Batch(
        pixels=pixels,
        sizes=torch.tensor(sizes, dtype=torch.int64),
        original_sizes=torch.tensor([item.original_size for item in items], dtype=torch.int64),
        scale_factors=torch.tensor([sample.scale_factors for sample in samples], dtype=torch.float32),
        image_ids=torch.tensor([item.image_id for item in items], dtype=torch.int64),
        targets=_collate_targets(
            items, slots=slots, masks=place_masks(masks, slots=slots, size=size) if masks else None
        ),
        proposals=None if proposal_slots is None else _collate_proposals(items, slots=proposal_slots),
    ).packed()
    canvas = batch.pixels.permute(0, 2, 3, 1).numpy()
    for place, (sample, (rows, columns)) in enumerate(zip(samples, sizes, strict=True)):
        sample.draw(canvas[place, :rows, :columns])
    return batch


def _bucket(items: Sequence[Item], *, most: int) -> int:
    """Slots for the objects of `items`: a power of two from 8 on, so that few shapes occur, or `most`."""
    needed = max(len(item.labels) for item in items)
    return min(most, max(_FEWEST_SLOTS, 1 << (needed - 1).bit_length()))


def _collate_targets(items: Sequence[Item], *, slots: int, masks: Masks | None) -> Targets:
    boxes = torch.zeros((len(items), slots, 4))
    labels = torch.zeros((len(items), slots), dtype=torch.int64)
    valid = torch.zeros((len(items), slots), dtype=torch.bool)
    for place, item in enumerate(items):
        count = len(item.labels)
        boxes[place, :count] = torch.from_numpy(item.sample.boxes[:count])
        labels[place, :count] = torch.from_numpy(item.labels)
        valid[place, :count] = True
    return Targets(boxes=boxes, labels=labels, valid=valid, masks=masks)


def _collate_proposals(items: Sequence[Item], *, slots: int) -> Proposals:
    boxes = torch.zeros((len(items), slots, 4))
    scores = torch.full((len(items), slots), -1.0)
    valid = torch.zeros((len(items), slots), dtype=torch.bool)
    for place, item in enumerate(items):
        assert item.proposal_scores is not None
        count = len(item.proposal_scores)
        boxes[place, :count] = torch.from_numpy(item.sample.boxes[len(item.labels) :])
        scores[place, :count] = torch.from_numpy(item.proposal_scores)
        valid[place, :count] = True
    return Proposals(boxes=boxes, scores=scores, valid=valid)


class Batches(Dataset[Batch]):
    """Makes whole batches, in a worker or, with none, in the rank itself.

    `torch.utils.data` asks for all images of a batch together through ``__getitems__``. An error that the
    user can fix is returned, not raised.
    """

    def __init__(self, split: Split, pipeline: Pipeline, *, with_masks: bool = True) -> None:
        self._split = split
        self._with_masks = with_masks
        self._pipeline = pipeline
        self._slots = split.annotations.ground_truth_slots(split.rows)

    def __len__(self) -> int:
        return len(self._split)

    def _batch(self, rows: Sequence[int], *, randoms: Sequence[Generator | None]) -> Batch | TrainerError:
        try:
            items = [self._item(row, random=random) for row, random in zip(rows, randoms, strict=True)]
        except TrainerError as error:
            # Handed over as a value: raised here, it would reach the rank wrapped in a traceback's text.
            return error
        return collate(
            items,
            slots=_bucket(items, most=self._slots),
            pad_multiple=self._pipeline.pad_multiple,
            proposal_slots=None if self._split.proposals is None else self._split.proposals.slots,
        )

    def _item(self, row: int, *, random: Generator | None) -> Item:
        """One image; without a source of random numbers as it is, neither augmented nor flipped."""
        boxes, labels = self._split.annotations.ground_truth(row)
        original = self._read(row)
        pixels: Pixels | augment.FloatPixels = original
        flip = random is not None and random.random() < self._pipeline.flip_probability
        if random is not None and self._pipeline.augments:
            changed = augment.augment(
                original,
                boxes=boxes,
                colours=self._pipeline.colours,
                fill=self._pipeline.zoom_fill,
                random=random,
            )
            pixels, boxes, labels = changed.pixels, changed.boxes, labels[changed.kept]
        jitter = 1.0 if random is None else self._pipeline.draw_jitter(random)
        proposal_scores = None
        if self._split.proposals is not None:
            proposals, proposal_scores = self._split.proposals.of_image(row)
            boxes = np.concatenate([boxes, proposals])
        sample = transforms.transform(pixels, boxes=boxes, pipeline=self._pipeline, flip=flip, jitter=jitter)
        return Item(
            image_id=int(self._split.annotations.image_ids[row]),
            original_size=(original.shape[0], original.shape[1]),
            sample=sample,
            labels=labels,
            proposal_scores=proposal_scores,
            masks=self._masks(row, sample) if self._with_masks else None,
        )

    def _masks(self, row: int, sample: Sample) -> ImageMasks | None:
        annotations = self._split.annotations
        if not annotations.has_masks:
            return None
        height, width = annotations.sizes[row].tolist()
        return ImageMasks(
            codes=annotations.masks(row), original_size=(height, width), size=sample.size, flip=sample.flip
        )

    def _read(self, row: int) -> images.Pixels:
        annotations = self._split.annotations
        file = self._split.folder / annotations.file_name(row)
        pixels = images.read_image(file, max_pixels=self._pipeline.max_pixels)
        height, width = annotations.sizes[row].tolist()
        found = (pixels.shape[0], pixels.shape[1])
        if found != (height, width):
            raise InvalidInput(
                f"{file}: image {annotations.image_ids[row]} "
                f"{images.describe_other_size(found, recorded=(height, width))} [image-size]; "
                "`kubedet check-data` lists all such files"
            )
        return pixels


class TrainingBatches(Batches):
    """Batches for the keys of a `ChunkSampler`, randomly flipped and otherwise augmented."""

    def __init__(self, split: Split, pipeline: Pipeline, plan: Plan) -> None:
        super().__init__(split, pipeline)
        self._plan = plan
        self._is_learnable = split.learnable()

    def __getitems__(self, keys: Sequence[SampleKey]) -> Batch | TrainerError:
        randoms = [np.random.default_rng((self._plan.seed, *key)) for key in keys]
        indices = [self._learnable(key.position, random) for key, random in zip(keys, randoms, strict=True)]
        return self._batch([int(self._split.rows[index]) for index in indices], randoms=randoms)

    def _learnable(self, index: int, random: Generator) -> int:
        """The index itself, or that of a random image of the same group that has something to learn."""
        if self._is_learnable[index]:
            return index
        same_group = self._plan.aspect_groups == self._plan.aspect_groups[index]
        candidates = np.flatnonzero(same_group & self._is_learnable)
        if not len(candidates):
            candidates = np.flatnonzero(self._is_learnable)
        return int(random.choice(candidates))


class ValidationBatches(Batches):
    """Batches for lists of indices of the split, not flipped."""

    def __getitems__(self, indices: Sequence[int]) -> Batch | TrainerError:
        return self._batch([int(self._split.rows[index]) for index in indices], randoms=[None] * len(indices))
