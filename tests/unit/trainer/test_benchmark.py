"""Frames per second: which images count, and what the detector is left as."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from kubedet_trainer import benchmark
from kubedet_trainer.config import NormalisationConfig
from kubedet_trainer.structures import Batch, Detections, Images, Targets

NORMALISATION = NormalisationConfig(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), to_rgb=False)


class Detector(nn.Module):
    """Finds nothing, and notes how it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.modes: list[bool] = []

    def detect(self, images: Images, scale_factors: torch.Tensor) -> list[Detections]:
        self.modes.append(self.training)
        empty = torch.zeros(0)
        return [Detections(boxes=empty.reshape(0, 4), scores=empty, labels=empty.long())]


def _batches(count: int) -> Iterator[Batch]:
    for number in range(count):
        yield Batch(
            pixels=torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
            sizes=torch.tensor([[32, 32]]),
            scale_factors=torch.ones(1, 4),
            original_sizes=torch.tensor([[32, 32]]),
            image_ids=torch.tensor([number]),
            targets=Targets(
                boxes=torch.zeros(1, 1, 4),
                labels=torch.zeros(1, 1, dtype=torch.int64),
                valid=torch.zeros(1, 1, dtype=torch.bool),
            ),
        )


@pytest.mark.parametrize(("num_images", "counted"), [(100, 95), (10, 5), (4, 2), (1, 1)])
def test_the_first_images_warm_up_and_do_not_count(
    monkeypatch: pytest.MonkeyPatch, num_images: int, counted: int
):
    detector = Detector()
    seconds = 0.0
    detect = detector.detect

    def slow_at_first(images: Images, scale_factors: torch.Tensor) -> list[Detections]:
        nonlocal seconds
        seconds += 100.0 if len(detector.modes) < num_images - counted else 0.5
        return detect(images, scale_factors)

    monkeypatch.setattr(detector, "detect", slow_at_first)
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: seconds)
    fps = benchmark.measure_fps(
        detector,
        _batches(200),
        num_images=num_images,
        normalisation=NORMALISATION,
        device=torch.device("cpu"),
    )
    assert fps == pytest.approx(2.0)
    assert detector.modes == [False] * num_images
    assert detector.training


def test_without_images_there_is_no_figure():
    detector = Detector()
    assert (
        benchmark.measure_fps(
            detector, _batches(5), num_images=0, normalisation=NORMALISATION, device=torch.device("cpu")
        )
        is None
    )
