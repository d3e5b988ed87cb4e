"""Frames per second: which images count, and what the detector is left as."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

import trainer_builders
from kubedet_trainer.evaluation import speed
from kubedet_trainer.models.detector import Detector
from kubedet_trainer.models.options.task import Task
from kubedet_trainer.structures import Batch, Detections, Images
from kubedet_trainer.telemetry import memory


class _Detector(Detector):
    """Finds nothing, and notes how it was asked."""

    def __init__(self) -> None:
        super().__init__(Task(num_classes=3))
        self.modes: list[bool] = []

    def detect(self, images: Images, scale_factors: torch.Tensor) -> list[Detections]:
        self.modes.append(self.training)
        empty = torch.zeros(0)
        nothing = Detections(boxes=empty.reshape(0, 4), scores=empty, labels=empty.long())
        return [nothing] * len(images.pixels)


def _batches(count: int, *, size: int = 1) -> Iterator[Batch]:
    for _ in range(count):
        yield trainer_builders.make_batch(
            torch.zeros(size, 3, 32, 32, dtype=torch.uint8), torch.tensor([[32, 32]] * size)
        )


@pytest.mark.parametrize(("num_images", "counted"), [(100, 95), (10, 5), (4, 2), (1, 1)])
def test_the_first_images_warm_up_and_do_not_count(
    monkeypatch: pytest.MonkeyPatch, num_images: int, counted: int
) -> None:
    detector = _Detector()
    seconds = 0.0
    detect = detector.detect

    def slow_at_first(images: Images, scale_factors: torch.Tensor) -> list[Detections]:
        nonlocal seconds
        seconds += 100.0 if len(detector.modes) < num_images - counted else 0.5
        return detect(images, scale_factors)

    monkeypatch.setattr(detector, "detect", slow_at_first)
    monkeypatch.setattr(time, "perf_counter", lambda: seconds)
    fps = speed.measure_fps(
        detector,
        _batches(200),
        num_images=num_images,
        device=torch.device("cpu"),
    )
    assert fps == pytest.approx(2.0)
    assert detector.modes == [False] * num_images
    assert detector.training


def test_larger_batches_count_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.0, 100.0, 104.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(seconds))
    detector = _Detector()
    fps = speed.measure_fps(detector, _batches(9, size=8), num_images=40, device=torch.device("cpu"))
    assert len(detector.modes) == 5
    assert fps == 32 / 4


def test_memory_is_named_after_what_is_counted() -> None:
    assert memory.peak_kind(torch.device("cuda"), kind="allocated") == "gpu_peak_allocated"
    assert memory.peak_kind(torch.device("cuda"), kind="reserved") == "gpu_peak_reserved"
    assert memory.peak_kind(torch.device("cpu"), kind="allocated") == "process_peak_resident"


def test_without_images_there_is_no_figure() -> None:
    detector = _Detector()
    assert speed.measure_fps(detector, _batches(5), num_images=0, device=torch.device("cpu")) is None
