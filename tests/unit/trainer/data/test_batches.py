"""What a batch takes in memory, and how it travels from a loader worker to the device."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kubedet_trainer.data import batches, run_lengths, transforms
from kubedet_trainer.data.batches import Item
from kubedet_trainer.data.masks import ImageMasks
from kubedet_trainer.data.transforms import Pipeline
from kubedet_trainer.structures import Batch

FILE_SIZE = (500, 833)
OBJECTS = 7
"""Of an image, as in COCO."""


def make_batch(*, images: int = 2) -> Batch:
    """A batch of 800x1344 with masks of ellipses a fifth of the image wide."""
    random = np.random.default_rng(0)
    half = np.array([80, 60])
    angles = np.linspace(0, 2 * np.pi, 24)
    items = []
    for number in range(images):
        centres = random.uniform(120, 380, (OBJECTS, 2))
        outlines = [np.stack([x + 80 * np.cos(angles), y + 60 * np.sin(angles)], 1) for x, y in centres]
        pixels = random.integers(0, 256, (*FILE_SIZE, 3)).astype(np.uint8)
        boxes = np.concatenate([centres - half, centres + half], axis=1).astype(np.float32)
        flip = bool(number % 2)
        sample = transforms.transform(pixels, boxes=boxes, pipeline=Pipeline(), flip=flip)
        codes = [run_lengths.compress([outline.ravel().tolist()], size=FILE_SIZE) for outline in outlines]
        items.append(
            Item(
                image_id=number,
                original_size=FILE_SIZE,
                sample=sample,
                labels=np.ones(OBJECTS, np.int32),
                masks=ImageMasks(codes=codes, original_size=FILE_SIZE, size=sample.size, flip=flip),
            )
        )
    return batches.collate(items, slots=8, pad_multiple=32)


def tensors_of(record: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a batch but its memory, by name."""
    for item in fields(record):
        value = getattr(record, item.name)
        if isinstance(value, Tensor) and item.name != "memory":
            yield item.name, value
        elif value is not None and not isinstance(value, Tensor):
            yield from tensors_of(value)


class Copies(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's hook of subclasses
    """Counts copies between devices."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += func.name() in ("aten::_to_copy", "aten::copy_")
        return func(*args, **(kwargs or {}))


def test_a_batch_of_two_images_with_masks_takes_little_more_than_its_pixels() -> None:
    batch = make_batch()
    assert batch.pixels.shape == (2, 3, 800, 1344)
    assert int(batch.targets.valid.sum()) == 14
    assert batch.targets.masks is not None
    runs = sum(len(batch.targets.masks.run_ends[places]) for places in [batch.targets.masks.run_ends < 2**62])
    assert runs > 14 * 2 * 150, "the masks are of usual size"
    assert batch.memory is not None
    bytes_of_masks = 8 * (8192 + 2 * 8 + 2 * 800 + 2 * 1344)
    bytes_of_slots = 2 * 8 * (4 * 4 + 8) + 64  # boxes and labels; which are valid takes a block of 64
    bytes_of_images = 4 * 64
    expected = 2 * 3 * 800 * 1344 + bytes_of_masks + bytes_of_slots + bytes_of_images
    assert batch.memory.nbytes == expected < 8_000_000


def test_a_batch_moves_to_the_device_in_one_copy() -> None:
    batch = make_batch()
    with Copies() as copies:
        moved = batch.to(torch.device("meta"))
    assert copies.count == 1
    assert moved.memory is not None
    for (name, own), (_, other) in zip(tensors_of(batch), tensors_of(moved), strict=True):
        assert other.device.type == "meta", name
        assert (own.dtype, own.shape, own.stride()) == (other.dtype, other.shape, other.stride()), name


def test_a_batch_is_pinned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[int] = []

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tensor.nbytes)
        return tensor.clone()

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    batch = make_batch()
    assert batch.memory is not None
    copy = batch.pin_memory()
    assert pinned == [batch.memory.nbytes]
    for (name, own), (_, other) in zip(tensors_of(batch), tensors_of(copy), strict=True):
        assert torch.equal(own, other), name
        assert own.data_ptr() != other.data_ptr(), name


def test_a_batch_travels_between_processes_as_one_tensor() -> None:
    batch = make_batch()
    rebuild, (places, memory) = batch.__reduce__()
    assert memory is batch.memory
    assert len(pickle.dumps(places)) < 4000
    assert not any(isinstance(value, Tensor) for value in places.values())
    copy = rebuild(places, memory)
    for (name, own), (_, other) in zip(tensors_of(batch), tensors_of(copy), strict=True):
        assert torch.equal(own, other), name
        assert own.data_ptr() == other.data_ptr(), name
